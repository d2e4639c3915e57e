"""WebSocket (RFC 6455): the handshake, and a connection as its handler sees it."""

import asyncio
import base64
import binascii
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, TypeAlias

import structlog
from prometheus_client import Counter, Gauge
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.frame_protocol import FrameProtocol

from api.answer import cancel_all
from api.headers import Headers
from api.origins import Origins
from api.problems import ClientGone
from api.routes import Request, UpgradeReply
from api.tunnel import Tunnel
from schemas.problems import FORBIDDEN, INVALID_PARAMETER, UNAVAILABLE, UPGRADE_REQUIRED, Refusal

PING_EVERY_S = 20.0
"""So often the client is asked whether it is there; one that has not answered by the next time is cut."""
MESSAGE_BYTES_MAX = 64 * 1024
"""Of one message from a client, in all its frames; more closes with 1009."""
INBOX_BYTES_MAX = 64 * 1024
"""Nothing more is read while messages of this size wait for the handler."""
PARTS_MAX = 256
"""The pieces of an unfinished message are joined when there are so many."""
CLOSE_S = 2.0
"""How long a closing connection waits for the other side to close too."""
REASON_BYTES_MAX = 123
VERSION = "13"
NORMAL, GOING_AWAY, PROTOCOL_ERROR, POLICY, TOO_BIG, FAILED = 1000, 1001, 1002, 1008, 1009, 1011
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES = 16

OPEN = Gauge("forge_websockets", "Open WebSocket connections.")
CLOSED = Counter("forge_websockets_closed_total", "WebSocket connections that ended, and why.", ["reason"])
_log = structlog.get_logger(__name__)

Handler: TypeAlias = Callable[["WebSocket"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a connection ends, and what the client is told; `code` None if there is nobody to tell."""

    reason: str
    code: int | None = None
    text: str = ""


_GONE = Ending("gone")
_NO_PONG = Ending("no-pong")


def websocket(request: Request[Any], handler: Handler, origins: Origins) -> UpgradeReply:
    """Return the answer that makes a WebSocket of the connection and hands it to `handler`; refuse what is none.

    The connection is closed with 1000 when `handler` returns, 1008 when it raises `Refusal` or the token ends, 1011
    when it fails, 1001 when the node stops. It is cancelled when the connection ends.
    """
    tunnel, headers = request.tunnel, request.headers
    if tunnel is None:
        why = "this path is a WebSocket"
        raise Refusal(UPGRADE_REQUIRED.problem(why), {"upgrade": "websocket", "connection": "Upgrade"})
    if headers.get("sec-websocket-version") != VERSION:
        why = f"the only version of WebSocket here is {VERSION}"
        raise Refusal(UPGRADE_REQUIRED.problem(why), {"sec-websocket-version": VERSION})
    accept = _accept(headers)
    if not origins.admits(headers):
        why = f"pages of {headers['origin'][:100]!r} may not connect to this node"
        fix = "Name the origin in FORGE_CORS_ORIGINS."
        raise Refusal(FORBIDDEN.problem(why, fix=fix, field="Origin"))
    if request.stopping.is_set():
        raise Refusal(UNAVAILABLE.problem("the node is stopping"))
    session = _Session(tunnel, handler, request.stopping)
    return UpgradeReply({"upgrade": "websocket", "sec-websocket-accept": accept}, session.run)


def text_frame(text: str | bytes) -> bytes:
    """Encode a text once for all who get it with `send_frame`; bytes are UTF-8 already."""
    encoder = FrameProtocol(client=False, extensions=[])
    return bytes(encoder.send_data(text if isinstance(text, str) else text.decode()))


class WebSocket:
    """A connection, as its handler sees it."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._inbox: deque[str | bytes] = deque()
        self._inbox_bytes = 0
        self._changed = asyncio.Event()
        tunnel.tell = self._changed.set

    async def receive(self) -> str | bytes:
        """Return the next message, text or bytes."""
        while not self._inbox:
            self._changed.clear()
            await self._changed.wait()
        message = self._inbox.popleft()
        self._inbox_bytes -= len(message)
        self._changed.set()
        return message

    async def send(self, message: str | bytes) -> None:
        """Send a text, or bytes as a binary message; wait while the client is slow."""
        await self.send_frame(bytes(FrameProtocol(client=False, extensions=[]).send_data(message)))

    async def send_frame(self, frame: bytes) -> None:
        """Send what `text_frame` returned."""
        await self._tunnel.write(frame)

    async def take(self, message: str | bytes) -> bool:
        """Put a message into the inbox when there is room; say whether that took any waiting."""
        waited = False
        while self._inbox_bytes > INBOX_BYTES_MAX:
            if self._tunnel.gone:
                raise ClientGone
            waited = True
            self._changed.clear()
            await self._changed.wait()
        self._inbox.append(message)
        self._inbox_bytes += len(message)
        self._changed.set()
        return waited


class _Session:
    """A connection from its handshake to its end."""

    def __init__(self, tunnel: Tunnel, handler: Handler, stopping: asyncio.Event) -> None:
        self._tunnel = tunnel
        self._handler = handler
        self._stopping = stopping
        self._socket = WebSocket(tunnel)
        self._protocol = Connection(ConnectionType.SERVER)
        self._parts: list[Any] = []
        self._size_bytes = 0
        self._ping_at = 0.0
        self._awaiting_pong = False

    async def run(self, token_ended: "asyncio.Future[None]") -> None:
        """Serve until it ends, whoever ends it."""
        OPEN.inc()
        reason = "cut"
        try:
            ending = await self._serve(token_ended)
            reason = ending.reason
            await self._close(ending)
        finally:
            OPEN.dec()
            CLOSED.labels(reason).inc()

    async def _serve(self, token_ended: "asyncio.Future[None]") -> Ending:
        reading = asyncio.ensure_future(self._read())
        handling = asyncio.ensure_future(self._handle())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((reading, handling, stopping, token_ended), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
            if handling.done():
                return handling.result()
            if token_ended.done():
                return Ending("token", POLICY, "the token ended")
            return Ending("stopping", GOING_AWAY, "the node stops")
        finally:
            await cancel_all([reading, handling, stopping])

    async def _handle(self) -> Ending:
        try:
            await self._handler(self._socket)
        except ClientGone:
            return _GONE
        except Refusal as refusal:
            return Ending("refused", POLICY, f"{refusal.problem.title}: {refusal.problem.detail}")
        except Exception:
            _log.exception("a WebSocket failed")
            return Ending("failed", FAILED, "the node failed")
        return Ending("done", NORMAL)

    async def _read(self) -> Ending:
        """Take what comes and ask now and then whether somebody is there; return why no more will come."""
        loop = asyncio.get_running_loop()
        self._ping_at = loop.time() + PING_EVERY_S
        try:
            while True:
                try:
                    async with asyncio.timeout_at(self._ping_at):
                        data = await self._tunnel.read()
                except TimeoutError:
                    if self._awaiting_pong:
                        return _NO_PONG
                    self._awaiting_pong = True
                    self._ping_at = loop.time() + PING_EVERY_S
                    await self._tunnel.write(self._protocol.send(Ping()))
                    continue
                self._protocol.receive_data(data)
                for event in self._protocol.events():
                    if (ending := await self._take(event)) is not None:
                        return ending
        except ClientGone:
            return _GONE

    async def _take(self, event: Event) -> Ending | None:
        match event:
            case TextMessage() | BytesMessage():
                return await self._take_part(event)
            case Ping():
                await self._tunnel.write(self._protocol.send(event.response()))
            case Pong():
                self._awaiting_pong = False
            case CloseConnection():
                if self._protocol.state is ConnectionState.REMOTE_CLOSING:
                    return Ending("client", event.code)
                return Ending("protocol", event.code, event.reason or "")
        return None

    async def _take_part(self, event: TextMessage | BytesMessage) -> Ending | None:
        self._size_bytes += len(event.data.encode() if isinstance(event.data, str) else event.data)
        if self._size_bytes > MESSAGE_BYTES_MAX:
            return Ending("too-large", TOO_BIG, f"a message has at most {MESSAGE_BYTES_MAX} bytes")
        empty: Any = "" if isinstance(event, TextMessage) else b""
        if event.data:
            self._parts.append(event.data)
        if event.message_finished:
            message, self._parts, self._size_bytes = empty.join(self._parts), [], 0
            if await self._socket.take(message):  # nothing was read meanwhile, so no pong either
                self._awaiting_pong = False
                self._ping_at = asyncio.get_running_loop().time() + PING_EVERY_S
        elif len(self._parts) > PARTS_MAX:
            self._parts = [empty.join(self._parts)]
        return None

    async def _close(self, ending: Ending) -> None:
        """Tell the client why, and wait for its answer, within a bound."""
        if ending is _NO_PONG:
            self._tunnel.abort()
        if ending.code is None:
            return
        clean = False
        try:
            async with asyncio.timeout(CLOSE_S):
                text = ending.text.encode()[:REASON_BYTES_MAX].decode(errors="ignore")
                await self._tunnel.write(self._protocol.send(CloseConnection(ending.code, text or None)))
                if ending.reason != "protocol":  # whose frames make no sense any more
                    clean = ending.reason == "client" or await self._closed_too()
        except (TimeoutError, ClientGone):
            pass
        self._tunnel.close(clean=clean)

    async def _closed_too(self) -> bool:
        """Drop what comes until the client closes too; return whether it did as it should."""
        while not any(isinstance(event, CloseConnection) for event in self._protocol.events()):
            self._protocol.receive_data(await self._tunnel.read())
        return self._protocol.state is ConnectionState.CLOSED


def _accept(headers: Headers) -> str:
    """Return the answer to the key of the client; refuse (400) what is no key."""
    key = headers.get("sec-websocket-key", "").strip()
    try:
        valid = len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        valid = False
    if not valid or len(headers.all("sec-websocket-key")) != 1:
        why = "Sec-WebSocket-Key must be there once, 16 bytes in base64"
        raise Refusal(INVALID_PARAMETER.problem(why, field="Sec-WebSocket-Key"))
    return base64.b64encode(sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()
