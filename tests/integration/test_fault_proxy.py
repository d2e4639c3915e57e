"""The TCP proxy does to real connections exactly what it says, and nothing else."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest

from tests.faults.proxy import Direction, Filter, TcpProxy

WAIT_S = 10.0
SHORT_S = 0.3


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    """A server that sends everything back; yields its port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A plain TCP connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@pytest.fixture
async def echo() -> AsyncIterator[TcpProxy]:
    async with echo_server() as port, TcpProxy("127.0.0.1", port) as proxy:
        yield proxy


async def comes(awaited: Awaitable[bytes]) -> bytes | None:
    """What arrives within a short while, or None."""
    try:
        return await asyncio.wait_for(awaited, SHORT_S)
    except TimeoutError:
        return None


async def test_bytes_pass_unchanged_in_both_directions(echo: TcpProxy) -> None:
    """A proxy without a fault is invisible, also for more than one chunk and for half-closed connections."""
    sent = bytes(range(256)) * 4096
    async with connected(echo.port) as (reader, writer):
        writer.write(sent)
        writer.write_eof()

        assert await asyncio.wait_for(reader.read(-1), WAIT_S) == sent


@pytest.mark.parametrize("direction", [*Direction, None])
async def test_a_paused_direction_holds_bytes_back_and_loses_none(echo: TcpProxy, direction: Direction | None) -> None:
    async with connected(echo.port) as (reader, writer):
        echo.pause(direction)
        writer.write(b"held")
        assert await comes(reader.readexactly(4)) is None

        echo.resume(direction)
        assert await asyncio.wait_for(reader.readexactly(4), WAIT_S) == b"held"


async def test_dropped_connections_are_reset_and_new_ones_work(echo: TcpProxy) -> None:
    async with connected(echo.port) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        assert await echo.drop_connections() == 1
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), WAIT_S)
    async with connected(echo.port) as (reader, writer):
        writer.write(b"y")
        assert await asyncio.wait_for(reader.readexactly(1), WAIT_S) == b"y"
        assert echo.connections == 1


async def test_a_refusing_proxy_keeps_its_port_and_its_open_connections(echo: TcpProxy) -> None:
    port = echo.port
    async with connected(port) as (reader, writer):
        writer.write(b"a")
        await reader.readexactly(1)
        await echo.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"b")
        assert await asyncio.wait_for(reader.readexactly(1), WAIT_S) == b"b"
    echo.accept()
    async with connected(port) as (reader, writer):
        writer.write(b"c")
        assert await asyncio.wait_for(reader.readexactly(1), WAIT_S) == b"c"


async def test_a_delay_holds_each_chunk_in_both_directions(echo: TcpProxy) -> None:
    echo.delay_s = 0.2
    loop = asyncio.get_running_loop()
    async with connected(echo.port) as (reader, writer):
        began = loop.time()
        writer.write(b"x")
        await asyncio.wait_for(reader.readexactly(1), WAIT_S)

        assert loop.time() - began >= 2 * 0.2


class CutAfter(Filter):
    """Ends the connection when so many bytes have passed."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def feed(self, data: bytes) -> bytes:
        passed = data[: self._left]
        self._left -= len(passed)
        self.cut_after = self._left == 0
        return passed


class CuttingProxy(TcpProxy):
    """Resets each connection after 300,000 bytes to the client, as a trap would."""

    def filters(self) -> dict[Direction, Filter]:
        return {Direction.TO_SERVER: Filter(), Direction.TO_CLIENT: CutAfter(300_000)}


async def count_until_reset(client: socket.socket) -> int:
    """Read in small pieces; return how many bytes came before the reset."""
    got = 0
    while True:
        try:
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 4096), WAIT_S)
        except ConnectionResetError:
            return got
        assert data, "the connection ended without a reset"
        got += len(data)


async def test_a_reset_comes_after_the_last_byte_before_it_also_for_a_slow_reader() -> None:
    """A reset throws away what the kernel has not sent yet, so the proxy waits until it has."""
    loop = asyncio.get_running_loop()
    async with echo_server() as port, CuttingProxy("127.0.0.1", port) as proxy:
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            await loop.sock_connect(client, ("127.0.0.1", proxy.port))
            sending = asyncio.create_task(loop.sock_sendall(client, bytes(400_000)))
            got = await count_until_reset(client)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    assert got == 300_000


async def test_a_dead_upstream_resets_the_client() -> None:
    async with echo_server() as port:
        pass
    async with TcpProxy("127.0.0.1", port) as proxy, connected(proxy.port) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), WAIT_S)
