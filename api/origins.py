"""Which web pages may talk to this node from a browser."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from api.headers import Headers

ANY_ORIGIN = "*"
_PORTS = {"http": 80, "https": 443}


class Origins:
    """The origins that are allowed besides the node's own."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """`allowed` are origins such as `https://example.org`, or `*` for any."""
        self._allowed = frozenset(origin.lower().rstrip("/") for origin in allowed)

    def lists(self, origin: str) -> bool:
        """Say whether an origin was allowed by name."""
        return ANY_ORIGIN in self._allowed or origin.lower() in self._allowed

    def admits(self, headers: Headers) -> bool:
        """Say whether a request comes from no page at all, from one of this host, or from one that is allowed."""
        origin = headers.get("origin")
        return origin is None or self.lists(origin) or _is_own(origin, headers.get("host", ""))


def _is_own(origin: str, host: str) -> bool:
    """Say whether a page has the host and port that it asks; the scheme may differ, as proxies end TLS."""
    try:
        page, asked = urlsplit(origin.lower()), urlsplit(f"//{host.lower()}")
        usual = _PORTS.get(page.scheme)
        same_port = (page.port or usual) == (asked.port or usual)
        return page.hostname is not None and page.hostname == asked.hostname and same_port
    except ValueError:
        return False
