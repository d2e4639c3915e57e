"""Which headers cross the relay, under which names, and which never do."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import unquote_plus

from api.auth import ANONYMOUS
from api.routes import Request
from schemas.problems import INVALID_PARAMETER, Refusal

PREFIX = "patch-h-"
HEADERS_MAX = 64
HEADERS_BYTES_MAX = 16 * 1024
SECRETS = frozenset({"token", "secret", "sig"})
"""Query parameters that must not reach the other side."""
SANDBOX = "sandbox allow-scripts allow-forms allow-popups"
AUTOMATIC = (
    "user-agent",
    "accept",
    "accept-language",
    "accept-encoding",
    "referer",
    "origin",
    "x-forwarded-for",
    "x-real-ip",
)
"""What a sender's client says of itself, relayed as if he had sent it as `Patch-H-*`."""
STATUS_MIN, STATUS_MAX = 200, 599

Lines: TypeAlias = list[tuple[str, str]]

_NEVER = frozenset(
    {
        # between two neighbours only, or how the message is framed, which is ours to say
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        # about the whole site, which is not the sender's
        "alt-svc",
        "clear-site-data",
        "expect-ct",
        "nel",
        "public-key-pins",
        "report-to",
        "reporting-endpoints",
        "service-worker-allowed",
        "strict-transport-security",
        # said by the server itself
        "date",
        "server",
        "x-content-type-options",
        "x-request-id",
        # orders to a proxy in front of us
        "x-lighttpd-send-file",
        "x-sendfile",
    }
)
_NEVER_BEGINNING = ("access-control-", "forge-", "nats-", "patch-", "ratelimit", "x-accel-", "x-reproxy-")
_TRUSTED_ONLY = frozenset(
    {
        "content-security-policy",
        "content-security-policy-report-only",
        "location",
        "refresh",
        "set-cookie",
        "set-cookie2",
        "www-authenticate",
    }
)
"""Relayed only for senders who showed a token."""
_CSP = "content-security-policy"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known of a message beside its body. Names are in lower case, without prefix."""

    method: str
    uri: str
    content_type: str
    status: int = 200
    explicit: tuple[tuple[str, str], ...] = ()
    automatic: tuple[tuple[str, str], ...] = ()

    def to_consumer(self) -> Lines:
        """Return the headers of an answer that is this message: the sender's own names, and where he sent it."""
        given = {name for name, _ in self.explicit}
        automatic = [line for line in self.automatic if line[0] not in given]
        return [*self._about(), *_shown([*automatic, *self.explicit]), *self._guards()]

    def to_requester(self) -> Lines:
        """Return the headers of an answer to a request: only what the sender chose to say."""
        return [*_shown(self.explicit), *self._guards()]

    def to_responder(self) -> Lines:
        """Return what a responder is told of a request, every name with its prefix."""
        given = {name for name, _ in self.explicit}
        automatic = [line for line in self.automatic if line[0] not in given]
        return [*self._about(), *_shown([*automatic, *self.explicit], PREFIX)]

    def _about(self) -> Lines:
        return [("Patch-Method", self.method), ("Patch-Uri", self.uri)]

    def _guards(self) -> Lines:
        """Return what keeps a browser from taking the message for a page of this site."""
        guards = [("X-Content-Type-Options", "nosniff")]
        if all(name != _CSP for name, _ in self.explicit):
            guards.append(("Content-Security-Policy", SANDBOX))
        if all(name != "cache-control" for name, _ in self.explicit):
            guards.append(("Cache-Control", "no-store"))
        return guards


def metadata(request: Request[Any], *, default_type: str, automatic: bool) -> Metadata:
    """Read what a sender says; `Refusal` (400) if it cannot be relayed. `automatic` names are relayed too."""
    anonymous = request.caller.name == ANONYMOUS
    lines = list(request.headers.lines())
    explicit = [line for line in _explicit(lines) if not _is_dropped(line[0], anonymous=anonymous)]
    own_type = next((value for name, value in explicit if name == "content-type"), None)
    given_type = own_type or request.headers.get("content-type", "")
    if _CONTROL.search(given_type):
        raise _refused("Content-Type holds characters that cannot be relayed", "Content-Type")
    return Metadata(
        method=request.method,
        uri=without_secrets(request.target),
        content_type=given_type or default_type,
        status=_status(request.headers.get("patch-status")),
        explicit=tuple(line for line in explicit if line[0] != "content-type"),
        automatic=tuple(_automatic(lines)) if automatic else (),
    )


def without_secrets(target: str) -> str:
    """Return a request target without the parameters that are secret."""
    path, mark, query = target.partition("?")
    kept = [part for part in query.split("&") if not _is_secret(part)]
    return path + (mark + "&".join(kept) if kept and query else "")


def _explicit(lines: Iterable[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    found = [(name[len(PREFIX) :], value) for name, value in lines if name.startswith(PREFIX)]
    for name, value in found:
        if not _TOKEN.fullmatch(name) or _CONTROL.search(value):
            raise _refused(f"Patch-H-{name[:60]!r} is no header that can be relayed", f"Patch-H-{name[:60]}")
    size_bytes = sum(len(name) + len(value) for name, value in found)
    if len(found) > HEADERS_MAX or size_bytes > HEADERS_BYTES_MAX:
        raise _refused(
            f"{len(found)} headers of {size_bytes} bytes; {HEADERS_MAX} of {HEADERS_BYTES_MAX} are relayed", "Patch-H-*"
        )
    return found


def _automatic(lines: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for name, value in lines:
        if name in AUTOMATIC and not _CONTROL.search(value):
            yield name, without_secrets(value) if name == "referer" else value


def _is_dropped(name: str, *, anonymous: bool) -> bool:
    return name in _NEVER or name.startswith(_NEVER_BEGINNING) or (anonymous and name in _TRUSTED_ONLY)


def _status(given: str | None) -> int:
    if given is None:
        return 200
    text = given.strip()
    if not (text.isascii() and text.isdigit() and len(text) == 3 and STATUS_MIN <= int(text) <= STATUS_MAX):
        why = f"Patch-Status is a number from {STATUS_MIN} to {STATUS_MAX}, not {given[:40]!r}"
        raise _refused(why, "Patch-Status")
    return int(text)


def _shown(lines: Iterable[tuple[str, str]], prefix: str = "") -> Lines:
    return [("-".join(part.capitalize() for part in f"{prefix}{name}".split("-")), value) for name, value in lines]


def _is_secret(part: str) -> bool:
    return unquote_plus(part.partition("=")[0]).strip().lower() in SECRETS


def _refused(why: str, field: str) -> Refusal:
    return Refusal(INVALID_PARAMETER.problem(why, field=field))
