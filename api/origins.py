"""Which web pages may talk to this node from a browser."""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from api.headers import Headers

ANY_ORIGIN = "*"
PREFLIGHT_S = 600
"""So long a browser may remember what it was told."""
_NAMES = re.compile(r"[A-Za-z0-9_, -]{1,1000}")
_NOTHING: Mapping[str, str] = {}
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

    def shared(self, headers: Headers) -> Mapping[str, str]:
        """Return the headers with which a browser shows an answer to the page that asked; none if it must not."""
        origin = headers.get("origin")
        if origin is None or not self.lists(origin):
            return _NOTHING
        return {"access-control-allow-origin": origin, "access-control-expose-headers": "*", "vary": "Origin"}

    def preflight(self, headers: Headers, allow: str) -> Mapping[str, str] | None:
        """Return the answer to an OPTIONS of a browser that asks what a page may send; None if it is another one."""
        wanted = headers.get("access-control-request-method")
        if wanted is None or not (shared := self.shared(headers)):
            return None
        named = headers.get("access-control-request-headers", "")
        return {
            **shared,
            "access-control-allow-methods": allow,
            "access-control-allow-headers": named if _NAMES.fullmatch(named) else "authorization, content-type",
            "access-control-max-age": str(PREFLIGHT_S),
            "vary": "Origin, Access-Control-Request-Headers",
        }


def _is_own(origin: str, host: str) -> bool:
    """Say whether a page has the host and port that it asks; the scheme may differ, as proxies end TLS."""
    try:
        page, asked = urlsplit(origin.lower()), urlsplit(f"//{host.lower()}")
        usual = _PORTS.get(page.scheme)
        same_port = (page.port or usual) == (asked.port or usual)
        return page.hostname is not None and page.hostname == asked.hostname and same_port
    except ValueError:
        return False
