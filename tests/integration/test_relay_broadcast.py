"""Broadcasts over real sockets: a copy for each who listens now, side by side."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from api.relay import broadcast
from api.relay.body import SPOOL_BYTES
from tests.relaying import Relaying, hang_up, relaying

NEWS = "/api/v1/db/home/streams/queue/news"
GET = b"GET /api/v1/db/home/streams/queue/news/next HTTP/1.1\r\nHost: forge\r\nAuthorization: root-of-this-test\r\n\r\n"


@pytest.fixture
async def served() -> AsyncIterator[Relaying]:
    async with relaying(small_buffers=True) as running:
        yield running
        await running.quiet()


@pytest.mark.parametrize("listeners", [0, 1, 3, 1000])
async def test_all_who_listen_get_it_once_and_the_sender_hears_how_many(served: Relaying, listeners: int) -> None:
    """P4.2, S5."""
    connections = [await served.raw(GET) for _ in range(listeners)]
    await served.receivers(listeners)
    async with served.client() as client:
        answer = await client.post(f"{NEWS}?pubsub", content=b"all hands")
        assert (answer.status_code, answer.headers["patch-delivered"]) == (200, str(listeners))
        assert answer.content == b""
        for reader, _ in connections:
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(9) == b"all hands"
        assert (await client.post(f"{NEWS}?mode=pubsub", content=b"again")).headers["patch-delivered"] == "0"
    for _, writer in connections:
        await hang_up(writer)


async def test_who_comes_back_while_others_still_receive_gets_no_second_copy(served: Relaying) -> None:
    """S5: who listens is decided at one moment."""
    body = bytes(SPOOL_BYTES)
    async with served.client() as client:
        _, stalled = await served.slow(GET)
        quick, writer = await served.raw(GET)
        await served.receivers(2)
        publishing = asyncio.create_task(client.post(f"{NEWS}?pubsub", content=body))
        await quick.readuntil(b"\r\n\r\n")
        await quick.readexactly(len(body))
        writer.write(GET)
        await served.receivers(1)
        assert not publishing.done()
        await hang_up(stalled)
        assert (await publishing).headers["patch-delivered"] == "1"
        await served.receivers(1)
        await hang_up(writer)


async def test_a_listener_that_stalls_holds_up_nobody(served: Relaying, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4.2, S5: others have all of it at once, and who takes nothing is dropped in the end."""
    body = bytes(SPOOL_BYTES)
    monkeypatch.setattr(broadcast, "STALLED_S", 8)  # longer than the machine stalls
    monkeypatch.setattr(broadcast, "LOOK_S", 0.1)
    async with served.client() as client:
        _, stalled = await served.slow(GET)
        others = [await served.raw(GET) for _ in range(5)]
        await served.receivers(6)
        publishing = asyncio.create_task(client.post(f"{NEWS}?pubsub", content=body))
        await asyncio.gather(*(_read_sized(reader, len(body)) for reader, _ in others))
        assert not publishing.done()
        assert (await publishing).headers["patch-delivered"] == "5"
    for writer in (stalled, *(writer for _, writer in others)):
        await hang_up(writer)


async def test_a_large_message_streams_to_all_of_them(served: Relaying, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3, S5: with one window for all; a stalled one is left behind, and the rest still arrives."""
    monkeypatch.setattr(broadcast, "STALLED_S", 8)  # longer than the machine stalls
    monkeypatch.setattr(broadcast, "LOOK_S", 0.1)
    size = 16 << 20
    async with served.client() as client:
        _, stalled = await served.slow(GET)
        others = [await served.raw(GET) for _ in range(3)]
        await served.receivers(4)
        publishing = asyncio.create_task(client.post(f"{NEWS}?pubsub", content=bytes(size)))
        await asyncio.gather(*(_read_sized(reader, size) for reader, _ in others))
        assert (await publishing).headers["patch-delivered"] == "3"
    for writer in (stalled, *(writer for _, writer in others)):
        await hang_up(writer)


async def test_a_broadcast_whose_sender_leaves_half_way_is_cut_for_all(served: Relaying) -> None:
    """3.7: nobody takes half of it for the whole."""
    connections = [await served.raw(GET) for _ in range(3)]
    await served.receivers(3)
    head = b"POST /api/v1/db/home/streams/queue/news?pubsub HTTP/1.1\r\nHost: forge\r\nAuthorization: "
    _, sender = await served.raw(head + b"root-of-this-test\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(40):
        sender.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
    await served.receivers(0)
    await hang_up(sender)
    for reader, writer in connections:
        assert not (await reader.read()).endswith(b"0\r\n\r\n")
        await hang_up(writer)


async def test_a_broadcast_that_nobody_hears_is_read_to_its_end(served: Relaying) -> None:
    """S5: its sender is not cut off for want of listeners."""
    async with served.client() as client:
        answer = await client.post(f"{NEWS}?pubsub", content=bytes(32 << 20))
        assert (answer.status_code, answer.headers["patch-delivered"]) == (200, "0")


async def _read_sized(reader: asyncio.StreamReader, size: int) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    assert f"content-length: {size}".encode() in head.lower()
    await reader.readexactly(size)
