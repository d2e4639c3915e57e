"""Served WebSockets, and both other sides: the `websockets` library, and bare bytes where that is too good."""

import asyncio
import base64
import contextlib
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import REGISTRY
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode

from api.app import build_app
from api.auth import Access, Principal
from api.origins import Origins
from api.routes import Reply, Request, Route, UpgradeReply
from api.server import Server
from api.websocket import WebSocket, websocket

TOKEN = "a-token-of-this-test"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
KIB = 1024
WAIT_S = 60
Talk = Callable[[WebSocket], Awaitable[None]]


class EndingAccess(Access):
    """Ends every token when told."""

    def __init__(self) -> None:
        super().__init__(TOKEN)
        self.over = asyncio.Event()

    async def ended(self, principal: Principal) -> None:
        await self.over.wait()


async def echo(socket: WebSocket) -> None:
    while True:
        await socket.send(await socket.receive())


async def silence(socket: WebSocket) -> None:
    await asyncio.get_running_loop().create_future()


class Watched:
    """A handler, and what became of it."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.begun, self.ended = asyncio.Event(), asyncio.Event()
        self.error: BaseException | None = None

    async def __call__(self, socket: WebSocket) -> None:
        self.begun.set()
        try:
            await self._talk(socket)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()


@asynccontextmanager
async def served(
    talk: Talk, *, access: Access | None = None, origins: Origins | None = None, **options: Any
) -> AsyncIterator[Server]:
    async def handler(request: Request[None]) -> UpgradeReply:
        return websocket(request, talk, origins or Origins())

    async def plain(request: Request[None]) -> Reply:
        return Reply(200, {"plain": True})

    routes = [Route("GET", "/ws", "vector.read", handler), Route("GET", "/plain", "vector.read", plain)]
    server = Server(
        build_app(routes, authoriser=access or Access(TOKEN)), "127.0.0.1", 0, **{"shutdown_s": 2} | options
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def port(server: Server) -> int:
    assert server._listener is not None
    return int(server._listener.sockets[0].getsockname()[1])


def connected(server: Server, headers: dict[str, str] | None = None, **options: Any) -> connect:
    settings = {"compression": None, "ping_interval": None} | options
    return connect(f"ws://127.0.0.1:{port(server)}/ws", additional_headers=headers or AUTH, **settings)


async def closing(client: ClientConnection) -> tuple[int, str]:
    """Return the code and reason with which the server closes."""
    with contextlib.suppress(ConnectionClosed):
        async with asyncio.timeout(WAIT_S):
            while True:
                await client.recv()
    assert client.close_code is not None
    return client.close_code, client.close_reason or ""


def ended(reason: str) -> float:
    return REGISTRY.get_sample_value("forge_websockets_closed_total", {"reason": reason}) or 0.0


def open_now() -> float:
    return REGISTRY.get_sample_value("forge_websockets") or 0.0


def of(server: Server) -> list[Any]:
    return list(server.connections)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.005)


@asynccontextmanager
async def raw(server: Server, *behind: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Shake hands with bare bytes, with frames right behind the head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
    try:
        writer.write(handshake() + b"".join(behind))
        async with asyncio.timeout(WAIT_S):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def handshake(**changes: str | None) -> bytes:
    lines: dict[str, str | None] = {
        "Host": "forge",
        "Authorization": f"Bearer {TOKEN}",
        "Connection": "keep-alive, Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    lines |= {name.replace("_", "-"): value for name, value in changes.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"GET /ws HTTP/1.1\r\n{head}\r\n".encode()


def frame(opcode: Opcode, data: bytes, *, fin: bool = True, reserved: int = 0) -> bytes:
    """Return a masked frame, also one that no library would send."""
    size, mask = len(data), b"\x12\x34\x56\x78"
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size & 0xFFFF)
    if size > 0xFFFF:
        length = b"\xff" + struct.pack("!Q", size)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
    return bytes([fin << 7 | reserved | opcode]) + length + mask + masked


async def close_code(reader: asyncio.StreamReader) -> int:
    """Return the code of the close frame that comes next."""
    while True:
        first, size = await reader.readexactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
        data = await reader.readexactly(size)
        if first == 0x88:
            return int(struct.unpack("!H", data[:2])[0]) if data else 1005
