"""The request line and headers of one request: collected within bounds, then checked as a whole."""

import re
from typing import Any
from urllib.parse import unquote

import httptools

from api.limits import Limits
from schemas.problems import (
    BAD_REQUEST,
    HEADERS_TOO_LARGE,
    HTTP_VERSION,
    NOT_IMPLEMENTED,
    URI_TOO_LONG,
    Problem,
)

_HOST = re.compile(rb"[^\s/?#@,\\]*")
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"upgrade"})
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_HEADER_OVERHEAD = 4  # colon, space, CR, LF


class Malformed(Exception):
    """The request cannot be served; carries the answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Head:
    """Collects what the parser reports, and refuses what is too much or ambiguous."""

    __slots__ = ("_bytes", "_framing", "_limits", "complete", "headers", "target")

    def __init__(self, limits: Limits) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self._bytes = 0
        self._framing: list[tuple[bytes, bytes]] = []
        self._limits = limits

    def add_target(self, data: bytes) -> None:
        """Take a part of the request target."""
        self.target += data
        if len(self.target) > self._limits.target_bytes_max:
            detail = f"the request target is longer than {self._limits.target_bytes_max} bytes"
            raise Malformed(URI_TOO_LONG.problem(detail))

    def add_header(self, name: bytes, value: bytes) -> None:
        """Take one header; once the head is complete, count and drop it: it is a trailer."""
        self._bytes += len(name) + len(value) + _HEADER_OVERHEAD
        if self._bytes + len(self.target) > self._limits.header_bytes_max:
            raise Malformed(too_large(self._limits))
        if self.complete:
            return
        if len(self.headers) >= self._limits.headers_max:
            raise Malformed(too_large(self._limits))
        line = (name.lower(), value)
        self.headers.append(line)
        if line[0] in _FRAMING:
            self._framing.append(line)

    @property
    def expects_continue(self) -> bool:
        """Whether the client sends its body only after being invited."""
        return any(name == b"expect" and value.lower() == b"100-continue" for name, value in self._framing)

    @property
    def wants_websocket(self) -> bool:
        """Whether the client would go on with WebSocket frames behind the head."""
        return any(name == b"upgrade" and value.strip().lower() == b"websocket" for name, value in self._framing)

    def check(self, version: str, *, upgrade: bool) -> None:
        """Refuse what other programs could read differently from us (RFC 9112, sections 3.2 and 6)."""
        if version not in ("1.0", "1.1"):
            raise Malformed(HTTP_VERSION.problem(f"the request says HTTP/{version}"))
        hosts = self._values(b"host")
        if len(hosts) > 1 or (not hosts and version == "1.1"):
            raise Malformed(BAD_REQUEST.problem(f"the request has {len(hosts)} Host headers, one is needed"))
        if hosts and not _HOST.fullmatch(hosts[0]):
            raise Malformed(BAD_REQUEST.problem("the Host header is not a host and port"))
        lengths, codings = self._values(b"content-length"), self._values(b"transfer-encoding")
        if len(lengths) + len(codings) > 1:
            raise Malformed(BAD_REQUEST.problem("the length of the body is given more than once"))
        if codings and version == "1.0":
            raise Malformed(BAD_REQUEST.problem("HTTP/1.0 has no Transfer-Encoding"))
        if codings and codings[0].strip().lower() != b"chunked":
            raise Malformed(NOT_IMPLEMENTED.problem("the only Transfer-Encoding taken here is chunked"))
        if upgrade and (codings or any(length.strip() != b"0" for length in lengths)):
            detail = "a request that asks for another protocol cannot have a body here"
            raise Malformed(NOT_IMPLEMENTED.problem(detail))
        self.complete = True

    def scope(self, method: str, version: str) -> dict[str, Any]:
        """Return the part of the ASGI scope that the head determines."""
        try:
            url = httptools.parse_url(self.target)
        except httptools.HttpParserError as error:
            raise Malformed(BAD_REQUEST.problem("the request target is not a path")) from error
        raw_path = url.path or b"/"
        path = raw_path.decode("ascii")
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": method,
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": url.query or b"",
            "root_path": "",
            "headers": self.headers,
        }

    def _values(self, wanted: bytes) -> list[bytes]:
        return [value for name, value in self._framing if name == wanted]


def too_large(limits: Limits) -> Problem:
    """Return the problem of headers past their bounds."""
    return HEADERS_TOO_LARGE.problem(
        f"the request has more than {limits.header_bytes_max} bytes or {limits.headers_max} headers"
    )
