"""The proxies do to real connections exactly what they say, and nothing else."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import nats.errors
import nats.js.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from tests.faults.nats_proxy import Framer, NatsProxy, subject_matches
from tests.faults.nats_server import NatsServer
from tests.faults.proxy import Direction, Filter, TcpProxy

STREAM = "FAULTS"
SUBJECT = "faults.one"
WAIT_S = 10.0
ANSWER_WAIT_S = 1.0
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


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path, tmp_path / "jetstream", sync_always=True) as server:
        yield server


@pytest.fixture
async def proxy(server: NatsServer) -> AsyncIterator[NatsProxy]:
    async with NatsProxy("127.0.0.1", server.port) as proxy:
        yield proxy


@asynccontextmanager
async def client_of(port: int) -> AsyncIterator[Client]:
    """A client whose reconnecting buffers nothing."""

    async def ignore(error: Exception) -> None:
        pass

    client = await nats.connect(f"nats://127.0.0.1:{port}", pending_size=0, reconnect_time_wait=0.05, error_cb=ignore)
    try:
        yield client
    finally:
        await client.close()


async def stored(server: NatsServer) -> list[bytes]:
    """All payloads of the stream, read past the proxy."""
    async with client_of(server.port) as direct:
        jetstream = direct.jetstream()
        state = (await jetstream.stream_info(STREAM)).state
        return [(await jetstream.get_msg(STREAM, seq)).data or b"" for seq in range(1, state.last_seq + 1)]


async def publish(
    client: Client, payload: bytes, headers: dict[str, str] | None = None, timeout: float = ANSWER_WAIT_S
) -> int:
    return (await client.jetstream().publish(SUBJECT, payload, timeout=timeout, headers=headers)).seq


async def until_stored(server: NatsServer, payload: bytes) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            if payload in await stored(server):
                return


@pytest.mark.parametrize("headers", [None, {"A": "b"}])
async def test_a_swallowed_ack_leaves_the_message_stored_and_its_publisher_in_doubt(
    server: NatsServer, proxy: NatsProxy, headers: dict[str, str] | None
) -> None:
    """PR5: the ambiguous append: stored, but the answer never came."""
    async with client_of(proxy.port) as client:
        await client.jetstream().add_stream(name=STREAM, subjects=["faults.>"])
        assert await publish(client, b"before", headers) == 1
        caught = proxy.swallow_next_ack("faults.*")
        with pytest.raises((nats.errors.Error, TimeoutError)):
            await publish(client, b"in doubt", headers)

        assert (await caught).subject == SUBJECT
        assert b'"seq":2' in (await caught).payload.replace(b" ", b"")
        assert await stored(server) == [b"before", b"in doubt"]
        await until_connected(client)
        assert await publish(client, b"after", headers) == 3


@pytest.mark.parametrize("headers", [None, {"A": "b"}])
async def test_a_swallowed_publish_never_reaches_the_server(
    server: NatsServer, proxy: NatsProxy, headers: dict[str, str] | None
) -> None:
    """PR5: the other ambiguous append: nothing was stored."""
    async with client_of(proxy.port) as client:
        await client.jetstream().add_stream(name=STREAM, subjects=["faults.>"])
        assert await publish(client, b"before", headers) == 1
        caught = proxy.swallow_next_publish("faults.>")
        with pytest.raises((nats.errors.Error, TimeoutError)):
            await publish(client, b"swallowed", headers)

        assert (await caught).payload == b"swallowed"
        assert await stored(server) == [b"before"]
        await until_connected(client)
        assert await publish(client, b"after", headers) == 2


async def test_exactly_one_of_many_concurrent_acks_is_lost_when_nothing_is_reset(
    server: NatsServer, proxy: NatsProxy
) -> None:
    async with client_of(proxy.port) as client:
        await client.jetstream().add_stream(name=STREAM, subjects=["faults.>"])
        caught = proxy.swallow_next_ack(reset=False)
        ends = await asyncio.gather(*(publish(client, b"%d" % n) for n in range(50)), return_exceptions=True)

        assert caught.done()
        assert sum(isinstance(end, Exception) for end in ends) == 1
        assert len(await stored(server)) == 50


async def test_everything_before_a_swallowed_ack_is_delivered_before_the_reset(
    server: NatsServer, proxy: NatsProxy
) -> None:
    """The 200 acks in front of it come in the same moment as the reset, and each one is heard."""
    async with client_of(proxy.port) as client:
        await client.jetstream().add_stream(name=STREAM, subjects=["faults.>"])
        caught = proxy.swallow_next_ack("faults.trap")
        proxy.pause(Direction.TO_CLIENT)
        before = [asyncio.create_task(publish(client, b"%d" % n, timeout=WAIT_S)) for n in range(200)]
        await asyncio.sleep(0)
        trapped = asyncio.create_task(client.jetstream().publish("faults.trap", b"in doubt", timeout=ANSWER_WAIT_S))
        await until_stored(server, b"in doubt")
        proxy.resume()

        assert sorted(await asyncio.gather(*before)) == list(range(1, 201))
        with pytest.raises((nats.errors.Error, TimeoutError)):
            await trapped
        assert caught.done()


async def test_a_refusal_is_not_taken_for_an_ack(server: NatsServer, proxy: NatsProxy) -> None:
    async with client_of(proxy.port) as client:
        await client.jetstream().add_stream(name=STREAM, subjects=["faults.>"])
        caught = proxy.swallow_next_ack()
        with pytest.raises(nats.js.errors.BadRequestError):
            await publish(client, b"refused", {"Nats-Expected-Last-Subject-Sequence": "9"})

        assert not caught.done()


async def until_connected(client: Client) -> None:
    """Wait until the client has noticed the reset and is back."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await client.flush(timeout=1)
                return
            except (nats.errors.Error, TimeoutError, ConnectionError):
                await asyncio.sleep(0.02)


FRAMES = [
    b'INFO {"server_id":"x"}\r\n',
    b"PING\r\n",
    b"pub a.b 0\r\n\r\n",
    b"PUB a.b reply 7\r\nx\r\nPING\r\n",
    b"HPUB a reply 12 15\r\nNATS/1.0\r\n\r\nabc\r\n",
    b"MSG a 1 2\r\nhi\r\n",
    b"HMSG a 1 12 12\r\nNATS/1.0\r\n\r\n\r\n",
    b"-ERR 'PUB 5'\r\n",
]


@given(st.lists(st.sampled_from(FRAMES), max_size=20), st.lists(st.integers(1, 40), min_size=1))
def test_frames_are_found_however_the_bytes_are_cut(frames: list[bytes], cuts: list[int]) -> None:
    """Payloads that look like protocol are payload, and no byte is changed."""
    framer, found, stream, at = Framer(), [], b"".join(frames), 0
    while at < len(stream):
        size = cuts[at % len(cuts)]
        found += framer.feed(stream[at : at + size])
        at += size

    assert [frame.raw for frame in found] == frames


@pytest.mark.parametrize(
    ("pattern", "subject", "matches"),
    [
        (">", "a.b", True),
        (">", "$JS.API.INFO", False),
        ("$JS.>", "$JS.API.INFO", True),
        ("a.>", "a", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.b", "a.c", False),
    ],
)
def test_a_pattern_matches_as_in_nats_but_spares_the_api(pattern: str, subject: str, matches: bool) -> None:
    assert subject_matches(pattern, subject) is matches
