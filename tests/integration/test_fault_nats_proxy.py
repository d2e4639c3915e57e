"""The NATS proxy loses exactly the one publish or acknowledgement it was asked to lose, on a real server."""

import asyncio
from collections.abc import AsyncIterator
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
from tests.faults.proxy import Direction
from tests.nats_client import flushed
from tests.waiting import until

STREAM = "FAULTS"
SUBJECT = "faults.one"
WAIT_S = 60.0
LOST_WAIT_S = 1.0  # for an answer that never comes


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
    client: Client, payload: bytes, headers: dict[str, str] | None = None, timeout: float = WAIT_S
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
            await publish(client, b"in doubt", headers, LOST_WAIT_S)

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
            await publish(client, b"swallowed", headers, LOST_WAIT_S)

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
        publishing = [asyncio.create_task(publish(client, b"%d" % n)) for n in range(50)]
        await caught
        await until(lambda: sum(one.done() for one in publishing) == 49, WAIT_S)
        await flushed(client)  # whatever else was answered would be here by now

        (lost,) = [one for one in publishing if not one.done()]
        lost.cancel()
        assert not [one for one in publishing if one is not lost and one.exception()]
        assert len(await stored(server)) == 50


async def test_everything_before_a_swallowed_ack_is_delivered_before_the_reset(
    server: NatsServer, proxy: NatsProxy
) -> None:
    """The 200 acks in front of it come in the same moment as the reset, and each one is heard."""
    async with client_of(proxy.port) as client:
        await client.jetstream().add_stream(name=STREAM, subjects=["faults.>"])
        caught = proxy.swallow_next_ack("faults.trap")
        proxy.pause(Direction.TO_CLIENT)
        before = [
            asyncio.create_task(
                publish(
                    client,
                    b"%d" % n,
                )
            )
            for n in range(200)
        ]
        await asyncio.sleep(0)
        trapped = asyncio.create_task(client.jetstream().publish("faults.trap", b"in doubt", timeout=LOST_WAIT_S))
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
