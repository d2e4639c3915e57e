"""One HTTP request and its answer, as an ASGI application sees them."""

import asyncio
from collections.abc import Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, Protocol

import structlog
from starlette.types import ASGIApp

from api.header_lines import BrokenAnswer, lowered
from api.leaving import Departure
from api.problems import ClientGone, encode_problem
from api.tunnel import Tunnel
from schemas.problems import INTERNAL, Problem

BODY_BUFFER_BYTES = 64 * 1024
"""Reading from the socket stops while more of a body than this waits for its handler."""
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_BODILESS = frozenset({204, 304})
_DISCONNECT = {"type": "http.disconnect"}
_log = structlog.get_logger(__name__)


class Wire(Protocol):
    """What an exchange needs of its connection."""

    writable: asyncio.Event

    def write(self, data: bytes) -> None: ...
    def is_closing(self) -> bool: ...
    def flushed(self) -> bool: ...
    def adjust_reading(self) -> None: ...
    def body_invited(self) -> None: ...
    def exchange_finished(self, exchange: "Exchange") -> None: ...
    def abort(self) -> None: ...


class Exchange:
    """A request whose headers are complete, its body as it arrives, and its answer as it leaves."""

    __slots__ = (
        "_chunked",
        "_chunks",
        "_date",
        "_end_seen",
        "_head",
        "_remaining",
        "_wake",
        "_wire",
        "body_complete",
        "buffered_bytes",
        "departure",
        "expects_continue",
        "finished",
        "gone",
        "keep_alive",
        "scope",
        "started",
        "tunnel",
    )

    def __init__(
        self,
        wire: Wire,
        scope: MutableMapping[str, Any],
        *,
        keep_alive: bool,
        expects_continue: bool,
        date: Callable[[], bytes],
        tunnels: bool = False,
    ) -> None:
        self.scope = scope
        self.departure = Departure()
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self.buffered_bytes = 0
        self.body_complete = False
        self.gone = False
        self.started = False
        self.finished = False
        self.tunnel = Tunnel(wire, self) if tunnels else None
        self._wire = wire
        self._date = date
        self._chunks: list[bytes] = []
        self._end_seen = False
        self._wake: asyncio.Event | None = None
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._chunked = False
        self._remaining: int | None = None

    def body_arrived(self, data: bytes) -> None:
        """Take the next bytes of the body; what nobody will read any more is dropped."""
        if self.gone or self.finished:
            return
        self._chunks.append(data)
        self.buffered_bytes += len(data)
        self._go_on()

    def body_ended(self) -> None:
        """The whole body has arrived."""
        self.body_complete = True
        self._go_on()

    def client_gone(self) -> None:
        """Nobody will read the answer: the handler hears `http.disconnect`, or `ClientGone` when it sends."""
        self.gone = True
        self._chunks.clear()
        if self.tunnel is not None:
            self.tunnel.lost()
        self._go_on()
        self.departure.happened()

    @property
    def is_full(self) -> bool:
        """Whether so much waits for the handler that the client should wait too."""
        waiting_bytes = self.buffered_bytes + (self.tunnel.buffered_bytes if self.tunnel is not None else 0)
        return waiting_bytes > BODY_BUFFER_BYTES

    async def run(self, app: ASGIApp, running: MutableMapping["Exchange", asyncio.Task[None]]) -> None:
        """Let `app` answer; whatever it does, the connection ends up answered or cut, never hanging.

        It is one of `running` until then.
        """
        try:
            await app(self.scope, self.receive, self.send)
        except ClientGone:
            pass
        except Exception:
            _log.exception("request failed outside its handler", path=self.scope["path"])
        finally:
            running.pop(self, None)
            if not (self.finished or self.gone):
                self._give_up()

    async def receive(self) -> MutableMapping[str, Any]:
        """ASGI: return the next part of the body, or wait until the exchange is over."""
        if self.expects_continue and not (self.started or self.gone):
            self.expects_continue = False
            self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._wire.body_invited()
        while not (self.gone or self.finished):
            if self._chunks or (self.body_complete and not self._end_seen):
                body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
                self._chunks.clear()
                self.buffered_bytes = 0
                self._end_seen = self.body_complete
                self._wire.adjust_reading()
                return {"type": "http.request", "body": body, "more_body": not self.body_complete}
            if self._wake is None:
                self._wake = asyncio.Event()
            self._wake.clear()
            await self._wake.wait()
        return _DISCONNECT

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """ASGI: write a part of the answer, waiting while the client is slow; `ClientGone` if it left.

        A client that knows how long the answer is may leave when it has all of it: that is no failure.
        """
        if self.gone or self._wire.is_closing():
            if message.get("body") or message.get("more_body") or not self._was_sent():
                raise ClientGone
            self.finished = True
            return
        if message["type"] == "http.response.start":
            if self._head is not None:
                raise BrokenAnswer("the answer was begun twice")
            self._head = (message["status"], list(message.get("headers", ())))
            return
        if message["type"] != "http.response.body" or self._head is None or self.finished:
            raise BrokenAnswer(f"unexpected {message['type']}")
        more = bool(message.get("more_body", False))
        self._write(message.get("body", b""), more=more)
        if not more:
            self._finish()
        elif not self._wire.writable.is_set():
            await self._wire.writable.wait()

    def switch_protocols(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Answer 101; from now on the connection belongs to the tunnel."""
        if self.gone or self._wire.is_closing():
            raise ClientGone
        assert not self.started
        lines = [_STATUS_LINES[101], b"connection: Upgrade\r\n"]
        lines += [b"%b: %b\r\n" % line for line in headers]
        self.started = True
        self._wire.write(b"".join((*lines, b"date: %b\r\n\r\n" % self._date())))

    def leave_protocol(self, *, clean: bool) -> None:
        """The tunnel is over; unless `clean`, the client may still be sending."""
        self.body_complete = clean
        self._finish()

    def _was_sent(self) -> bool:
        return self.started and (self._remaining == 0 or self._is_bodiless()) and self._wire.flushed()

    def _is_bodiless(self) -> bool:
        return self.scope["method"] == "HEAD" or (self._head is not None and self._head[0] in _BODILESS)

    def _write(self, body: bytes, *, more: bool) -> None:
        assert self._head is not None
        output = b""
        if not self.started:
            output = self._begin(*self._head, whole=None if more else body)
            self.started = True
        if self._remaining is not None:
            self._remaining -= len(body)
            if self._remaining < 0 or (self._remaining > 0 and not more):
                raise BrokenAnswer("the body does not have the promised length")
        if self._is_bodiless():
            body = b""
        elif self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        if output or body:
            self._wire.write(output + body)

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]], *, whole: bytes | None) -> bytes:
        length: int | None = None
        dated = False
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for name, value in headers:
            known = lowered(name, value)
            if known == b"content-length":
                if status in _BODILESS:
                    continue  # RFC 9110, 8.6: there is none in a 204, and in a 304 it would tell of another answer
                length = int(value)
            elif known == b"connection" and value.lower() == b"close":
                self.keep_alive = False
                continue
            elif known == b"date":
                dated = True
            lines.append(b"%b: %b\r\n" % (name, value))
        if status not in _BODILESS:
            lines.append(self._frame(length, whole))
        if not self.body_complete:
            self.keep_alive = False  # the unread rest of the body would be taken for the next request
        if not dated:
            lines.append(b"date: %b\r\n" % self._date())
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        return b"".join(lines)

    def _frame(self, length: int | None, whole: bytes | None) -> bytes:
        """Decide how the client learns where the body ends; return the header line that says so."""
        head = self.scope["method"] == "HEAD"
        if length is not None:
            self._remaining = None if head else length
            return b""
        if whole is not None and not head:
            return b"content-length: %d\r\n" % len(whole)
        if self.scope["http_version"] == "1.1":
            self._chunked = True
            return b"transfer-encoding: chunked\r\n"
        self.keep_alive = False
        return b""

    def _go_on(self) -> None:
        if self._wake is not None:
            self._wake.set()

    def _finish(self) -> None:
        self.finished = True
        self._chunks.clear()
        self._go_on()
        self._wire.exchange_finished(self)

    def refuse(self, problem: Problem, request_id: str) -> None:
        """Answer with `problem` instead of what the application would say, and close afterwards."""
        if self.started:
            self.client_gone()
            self._wire.abort()
            return
        body, headers = encode_problem(problem, request_id)
        self.keep_alive = False
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        raw.append((b"x-request-id", request_id.encode()))
        self._head = (problem.status, raw)
        self._write(body, more=False)
        self.client_gone()
        self._finish()

    def _give_up(self) -> None:
        try:
            request_id = str(self.scope.get("state", {}).get("request_id", ""))
            self.refuse(INTERNAL.problem("the request failed inside the node"), request_id)
        except BrokenAnswer:  # pragma: no cover - our own problem body is always valid
            self._wire.abort()
