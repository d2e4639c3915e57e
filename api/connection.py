"""One HTTP/1.1 connection: llhttp parses, requests run one after the other, every wait has a deadline."""

import asyncio
from collections import deque
from enum import Enum, auto

import httptools

from api import metrics
from api.exchange import Exchange
from api.head import Head, Malformed, too_large
from api.hub import Hub
from api.peer import has_left, keep_alive
from api.request_ids import new_request_id
from schemas.problems import BAD_REQUEST, REQUEST_TIMEOUT, UNAVAILABLE, Problem

FEED_BYTES = 32 * 1024
"""The parser is fed in slices of this size unless a body is arriving: so much of an endless header may be kept above
its limit, or one read of the socket behind a body."""


class Phase(Enum):
    """What the parser of a connection is in the middle of."""

    IDLE = auto()
    HEADERS = auto()
    BODY = auto()
    TUNNEL = auto()  # what arrives is not HTTP any more
    DEAF = auto()  # nothing that still arrives will be looked at


class Connection(asyncio.Protocol):
    """Parses requests, runs them in order, and enforces `Limits`."""

    def __init__(self, hub: Hub) -> None:
        self.writable = asyncio.Event()
        self.writable.set()
        self._hub = hub
        self._limits = hub.limits
        self._parser = httptools.HttpRequestParser(self)
        self._head = Head(hub.limits)
        self._transport: asyncio.Transport | None = None
        self._phase = Phase.IDLE
        self._since = hub.loop.time()  # when the phase began, or its present measuring window
        self._seen_bytes = 0  # within it: header bytes fed, body bytes received, or bytes discarded
        self._served_any = False
        self._lingering = False
        self._peer: tuple[str, int] | None = None
        self._reading = True
        self._broken = False  # what was written last may never arrive
        self._unsent: tuple[float, int] | None = None  # since when the client is slow, and what it has to read
        self._exchange: Exchange | None = None
        self._waiting: deque[Exchange | Problem] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or turn it away when there are too many."""
        # uvloop's transports are no subclasses of asyncio's
        self._transport = transport  # type: ignore[assignment]
        if (link := transport.get_extra_info("socket")) is not None:
            keep_alive(link)
        if isinstance(name := transport.get_extra_info("peername"), tuple):
            self._peer = name[0], name[1]
        open_connections, limits = self._hub.connections, self._limits
        open_connections.add(self)
        metrics.CONNECTIONS.inc()
        if len(open_connections) > limits.connections_max + limits.refused_max:
            metrics.REFUSED.labels("connections-max").inc()
            self.abort()
        elif len(open_connections) > limits.connections_max:
            detail = f"there are already {limits.connections_max} connections"
            self._refuse(UNAVAILABLE.problem(detail), "connections-max")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the running request, and forget the ones that wait."""
        self._hub.connections.discard(self)
        metrics.CONNECTIONS.dec()
        if not self._hub.connections:
            self._hub.emptied.set()
        self._phase = Phase.DEAF
        self._broken = self._broken or exc is not None
        self._waiting.clear()
        if self._exchange is not None:
            self._exchange.client_gone()
            self._exchange = None
        self.writable.set()

    def eof_received(self) -> None:
        """The client has left: what it has not taken is lost."""
        self._broken = self._broken or self._unsent_bytes() > 0

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self.writable.clear()
        self._unsent = (self._hub.loop.time(), self._unsent_bytes())

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.writable.set()
        self._unsent = None

    def data_received(self, data: bytes) -> None:
        """Feed the parser, slice by slice."""
        if len(data) <= FEED_BYTES or self._phase in (Phase.BODY, Phase.TUNNEL):
            self._feed(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), FEED_BYTES):
            self._feed(view[start : start + FEED_BYTES])

    def _feed(self, piece: bytes | memoryview) -> None:
        if self._is_deaf():
            self._discard(len(piece))
        elif self._phase is Phase.TUNNEL:
            self._tunnelled(bytes(piece))
        else:
            try:
                self._parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                self._upgraded(bytes(piece[upgrade.args[0] :]))
            except httptools.HttpParserError as error:
                # after a request with `Connection: close` the parser refuses what follows; so do we, silently
                if not self._is_deaf():
                    self._malformed(error)
            if self._phase is Phase.HEADERS:
                self._seen_bytes += min(len(piece), FEED_BYTES)  # most of a larger one was body
                if self._seen_bytes > self._limits.header_bytes_max + FEED_BYTES:
                    self._refuse(too_large(self._limits), "malformed")

    def _upgraded(self, behind: bytes) -> None:
        """Keep what comes `behind` the head for those who may take it as another protocol."""
        tunnelling = self._newest().tunnel is not None
        self._enter(Phase.TUNNEL if tunnelling else Phase.DEAF)
        if tunnelling:
            self._tunnelled(behind)

    def _tunnelled(self, data: bytes) -> None:
        tunnel = self._newest().tunnel
        assert tunnel is not None
        self._seen_bytes += len(data)
        tunnel.arrived(data)
        self.adjust_reading()

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection is closing."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def is_closing(self) -> bool:
        """Say whether what is written now would go nowhere."""
        return self._transport is None or self._transport.is_closing()

    def flushed(self) -> bool:
        """Say whether all that was written is on its way."""
        return not self._broken and self._unsent_bytes() == 0

    def abort(self) -> None:
        """Cut the connection, so that the client sees that its answer is incomplete."""
        self._broken = True
        if self._transport is not None:
            self._transport.abort()

    def body_invited(self) -> None:
        """Only now may the client begin to send the body."""
        self._since = self._hub.loop.time()

    def adjust_reading(self) -> None:
        """Read from the socket only while there is room for what arrives."""
        read = not (self._waiting or (self._exchange is not None and self._exchange.is_full))
        if read is self._reading or self._transport is None or self._transport.is_closing():
            return
        self._reading = read
        if not read:
            self._transport.pause_reading()
        else:
            self._since, self._seen_bytes = self._hub.loop.time(), 0
            self._transport.resume_reading()

    def exchange_finished(self, exchange: Exchange) -> None:
        """Go on with the next request, or close."""
        if exchange is not self._exchange:
            return
        self._exchange = None
        if not exchange.keep_alive or (self._hub.stopping.is_set() and not self._waiting):
            self._close(linger=not exchange.body_complete or self._seen_bytes > 0)
            return
        self._since = self._hub.loop.time()
        self._next()

    def sweep(self, now: float) -> None:
        """Enforce every deadline; called a few times within the shortest one."""
        waited, limits = now - self._since, self._limits
        if not self._reading and self._transport is not None and has_left(self._transport):
            self.abort()  # nobody else notices: its end would be read behind what is not being read
        elif self._unsent is not None:
            self._sweep_answer(now, *self._unsent)
        elif self._phase is Phase.DEAF and self._exchange is None:
            if waited > (limits.linger_s if self._lingering else limits.body_idle_s):
                self.abort()
        elif self._phase is Phase.HEADERS and waited > limits.header_deadline_s and self._reading:
            detail = f"the headers took longer than {limits.header_deadline_s:g} s"
            self._refuse(REQUEST_TIMEOUT.problem(detail), "header-deadline")
        elif self._phase is Phase.BODY:
            self._sweep_body(now, waited)
        elif (
            self._phase is Phase.IDLE
            and self._exchange is None
            and waited > (limits.keep_alive_s if self._served_any else limits.header_deadline_s)
        ):
            self._close(linger=False)

    def stop(self) -> None:
        """Begin to shut down: close at once if no request runs, else after its answer."""
        if self._exchange is None:
            if not self._lingering:
                self._close(linger=False)
        elif not self._exchange.started and not self._waiting:
            self._exchange.keep_alive = False

    def on_message_begin(self) -> None:
        """llhttp: a request begins."""
        self._enter(Phase.HEADERS)
        self._head = Head(self._limits)

    def on_url(self, data: bytes) -> None:
        """llhttp: a part of the request target."""
        self._head.add_target(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp: one header, or one trailer."""
        self._head.add_header(name, value)

    def on_headers_complete(self) -> None:
        """llhttp: check the request as a whole and start it, or queue it behind the running one."""
        limits, parser, head = self._limits, self._parser, self._head
        if len(self._waiting) >= limits.pipelined_max:
            detail = f"more than {limits.pipelined_max} requests were sent ahead of their answers"
            raise Malformed(BAD_REQUEST.problem(detail))
        version, upgrade = parser.get_http_version(), parser.should_upgrade()
        head.check(version, upgrade=upgrade)
        scope = head.scope(parser.get_method().decode("ascii"), version)
        exchange = Exchange(
            self,
            scope,
            keep_alive=version == "1.1" and parser.should_keep_alive() and not upgrade,
            expects_continue=version == "1.1" and head.expects_continue,
            date=self._hub.current_date,
            tunnels=upgrade and scope["method"] == "GET" and version == "1.1" and head.wants_websocket,
        )
        scope["client"] = self._peer
        scope["state"] = {"stopping": self._hub.stopping, "departure": exchange.departure, "tunnel": exchange.tunnel}
        self._enter(Phase.BODY)
        self._waiting.append(exchange)
        if self._exchange is None:
            self._next()

    def on_body(self, data: bytes) -> None:
        """llhttp: a part of the body."""
        self._seen_bytes += len(data)
        exchange = self._newest()
        exchange.expects_continue = False  # it came uninvited
        exchange.body_arrived(data)
        self.adjust_reading()

    def on_message_complete(self) -> None:
        """llhttp: the request is complete."""
        exchange = self._newest()
        exchange.expects_continue = False
        exchange.body_ended()
        self._enter(Phase.IDLE if exchange.keep_alive else Phase.DEAF)
        self.adjust_reading()

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._since = self._hub.loop.time()
        self._seen_bytes = 0

    def _unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _is_deaf(self) -> bool:
        return self._phase is Phase.DEAF

    def _newest(self) -> Exchange:
        """Return the request whose body is arriving."""
        newest = self._waiting[-1] if self._waiting else self._exchange
        assert isinstance(newest, Exchange)
        return newest

    def _next(self) -> None:
        """Start what waits longest."""
        if self._waiting:
            head = self._waiting.popleft()
            if isinstance(head, Problem):
                self._answer(head)
                return
            self._exchange = head
            self._served_any = True
            running = self._hub.running
            running[head] = self._hub.loop.create_task(head.run(self._hub.app, running))
        self.adjust_reading()

    def _sweep_answer(self, now: float, since: float, unsent_bytes: int) -> None:
        """Cut a client that reads too slowly; what counts is progress, since an answer may be large."""
        window_s = now - since
        if window_s >= self._limits.body_idle_s:
            left_bytes = self._unsent_bytes()
            if unsent_bytes - left_bytes < self._limits.body_rate_min_bytes_s * window_s:
                metrics.REFUSED.labels("slow-reader").inc()
                self.abort()
            self._unsent = (now, left_bytes)

    def _sweep_body(self, now: float, waited: float) -> None:
        if not self._reading or self._newest().expects_continue:
            self._since, self._seen_bytes = now, 0  # it is we who make the client wait
        elif waited >= self._limits.body_idle_s:
            least = self._limits.body_rate_min_bytes_s * waited
            if self._seen_bytes < least:
                detail = f"{self._seen_bytes} bytes of the body came in {waited:.1f} s; {least:.0f} are needed"
                self._refuse(REQUEST_TIMEOUT.problem(detail), "body-idle")
            else:
                self._since, self._seen_bytes = now, 0

    def _malformed(self, error: httptools.HttpParserError) -> None:
        cause = error.__context__
        if isinstance(cause, Malformed):
            self._refuse(cause.problem, "malformed")
        elif isinstance(error, httptools.HttpParserCallbackError):
            self.abort()
            raise error  # our own fault, not the client's: the loop logs it
        else:
            self._refuse(BAD_REQUEST.problem(str(error)), "malformed")

    def _refuse(self, problem: Problem, reason: str) -> None:
        """Answer the request being received with `problem`, after the answers that come before it."""
        metrics.REFUSED.labels(reason).inc()
        body_broke = self._phase is Phase.BODY
        self._phase = Phase.DEAF
        if body_broke and self._waiting:
            self._waiting[-1] = problem
        elif body_broke and self._exchange is not None:
            self._exchange.refuse(problem, new_request_id())
        elif self._exchange is not None:
            self._waiting.append(problem)
        else:
            self._answer(problem)

    def _answer(self, problem: Problem) -> None:
        """Answer with `problem` now, and close."""
        scope = {"method": "GET", "path": "", "http_version": "1.1"}
        self._exchange = Exchange(self, scope, keep_alive=False, expects_continue=False, date=self._hub.current_date)
        self._exchange.refuse(problem, new_request_id())

    def _discard(self, size_bytes: int) -> None:
        self._seen_bytes += size_bytes
        if self._seen_bytes > self._limits.linger_bytes_max:
            self.abort()

    def _close(self, *, linger: bool) -> None:
        """Close; lingering lets the answer arrive before the rest of the request meets a closed port."""
        self._enter(Phase.DEAF)
        self._waiting.clear()
        if self._transport is None or self._transport.is_closing():
            return
        if not linger or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._lingering = True
        try:
            self._transport.write_eof()
        except OSError:  # the client broke the connection off, which nobody has told us yet
            self._transport.abort()
            return
        self.adjust_reading()
