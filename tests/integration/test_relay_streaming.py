"""What the relay costs: large bodies in little memory, thousands who wait, and no limit on how long."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.limits import Limits
from api.relay.body import SPOOL_BYTES
from api.routes import Request
from tests.relay_process import RelayProcess, relay_process
from tests.relaying import TOKEN, Relaying, hang_up, relaying
from tests.waiting import until

MIB = 1 << 20
GROWTH_BYTES_MAX = 64 * MIB
PER_WAITER_BYTES_MAX = 64 << 10
BLOCK = os.urandom(MIB)


@pytest.mark.parametrize("chunked", [True, False])
async def test_half_a_gigabyte_passes_in_little_memory(chunked: bool) -> None:
    """P4.12, S3."""
    async with relay_process() as process:
        await _passes(process, 512 * MIB, chunked=chunked)


@pytest.mark.long
async def test_two_gigabytes_pass_in_little_memory() -> None:
    """P4.12, S3."""
    async with relay_process() as process:
        await _passes(process, 2048 * MIB, chunked=True)


async def test_two_thousand_wait_for_little_memory_and_without_a_thread() -> None:
    """P8.4, S14: and each of them gets his message in the end."""
    count = 2000
    async with relay_process() as process:
        for _, one in await _wait(process, 10):
            await hang_up(one)
        before, threads = process.resident_bytes, _threads(process)
        waiting = await _wait(process, count)
        each = (process.resident_bytes - before) / count
        print(f"{each / 1024:.1f} KiB for each of {count} who wait")
        assert each < PER_WAITER_BYTES_MAX
        assert _threads(process) == threads
        reader, writer = await asyncio.open_connection(process.host, process.port)
        for number, (receiver, _) in enumerate(waiting):
            body = b"%d" % number
            writer.write(
                b"POST /p/queue/%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (number, len(body)) + body
            )
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert (await receiver.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await receiver.readexactly(len(body)) == body
        for _, one in (*waiting, (reader, writer)):
            await hang_up(one)


async def test_who_waits_is_not_cut_off_by_any_limit_of_the_server() -> None:
    """S14, A.8, G-1: an idle wait outlasts every deadline, on either side, and is then served."""
    short = Limits(header_deadline_s=0.2, body_idle_s=0.2, keep_alive_s=0.2, linger_s=0.2)
    # no connection is used again: the server may be about to close it, since nothing was asked on it for so long
    anew = httpx2.Limits(max_keepalive_connections=0)
    async with relaying(limits=short) as served, served.client(limits=anew) as client:
        receiving = asyncio.create_task(client.get("/p/x"))
        asking = asyncio.create_task(client.post("/p/req/x", content=b"q"))
        sending = asyncio.create_task(client.post("/p/y", content=bytes(3 * SPOOL_BYTES)))
        await served.receivers(1)
        await served.senders(2)
        done, _ = await asyncio.wait([receiving, asking, sending], timeout=1.5)
        assert not done
        assert (await client.post("/p/x", content=b"late")).status_code == 200
        assert (await receiving).content == b"late"
        assert (await client.post("/p/res/x", content=b"a")).status_code == 200
        assert (await asking).content == b"a"
        assert len((await client.get("/p/y")).content) == 3 * SPOOL_BYTES
        assert (await sending).status_code == 200
        await served.quiet()


@pytest.fixture
async def stored() -> AsyncIterator[tuple[Relaying, list[tuple[str, str, bytes, str]]]]:
    messages: list[tuple[str, str, bytes, str]] = []

    async def tee(request: Request[Any], topic: str, body: bytes, content_type: str) -> int:
        messages.append((request.db_id, topic, body, content_type))
        return len(messages)

    async with relaying(tee=tee) as served:
        yield served, messages
        await served.quiet()


async def test_what_passes_can_be_stored_too(stored: tuple[Relaying, list[Any]]) -> None:
    """PR7, PR6: before it is offered, up to its bound, by those who may publish; else nothing is claimed."""
    served, messages = stored
    narrow = served.mint("narrow", ("stream.write", "home", ""), ("pub.publish", "home", "sensors"))
    path = "/api/v1/db/home/streams/queue/x"
    async with served.client(headers={"authorization": narrow}) as client:
        assert (await client.post(f"{path}?tee=other", content=b"x")).status_code == 403
        too_large = bytes(SPOOL_BYTES + 1)
        assert (await client.post(f"{path}?tee=sensors/a", content=too_large)).status_code == 413
        assert messages == []
        sent = await client.post(f"{path}?tee=sensors/a&pubsub", content=b"21", headers={"content-type": "text/x"})
        assert (sent.status_code, sent.headers["forge-message-id"]) == (200, "1")
        asking = asyncio.create_task(client.post("/u/home/req/x?tee=sensors/b", content=b"q"))
        await served.senders(1)
        answered = await client.post("/u/home/res/x?tee=sensors/c", content=b"a")
        assert answered.headers["forge-message-id"] == "3"
        assert (await asking).headers["forge-message-id"] == "2"
    assert messages == [
        ("home", "sensors/a", b"21", "text/x"),
        ("home", "sensors/b", b"q", "text/plain"),
        ("home", "sensors/c", b"a", "text/plain"),
    ]


@pytest.mark.parametrize("query", ["", "&body=21"])
async def test_what_is_not_given_to_anybody_can_be_stored_all_the_same(
    stored: tuple[Relaying, list[Any]], query: str
) -> None:
    """Issue: tee. `?discard` wakes with an empty message, and what was sent is the one that is stored."""
    served, messages = stored
    path = "/api/v1/db/home/streams/queue/x"
    async with served.client() as client:
        waiting = asyncio.create_task(client.get(f"{path}/next"))
        await served.receivers(1)
        sent = await client.post(f"{path}?discard&tee=t{query}", content=b"other" if query else b"21")
        assert (sent.status_code, sent.headers["forge-message-id"]) == (200, "1")
        assert (await waiting).content == b""
        too_large = await client.post(f"{path}?discard&tee=t", content=bytes(SPOOL_BYTES + 1))
        assert too_large.status_code == 413
        waiting = asyncio.create_task(client.get(f"{path}/next"))
        await served.receivers(1)
        large = await client.post(f"{path}?discard", content=bytes(4 * SPOOL_BYTES))
        assert (large.status_code, (await waiting).content) == (200, b"")
    assert messages == [("home", "t", b"21", "application/octet-stream")]


async def test_who_is_refused_hears_what_was_stored(stored: tuple[Relaying, list[Any]]) -> None:
    """Issue: tee. It stays stored when nobody comes, so whoever sends it again must know."""
    served, messages = stored
    async with served.client() as client:
        late = [
            await client.post(f"/u/home/{rest}?tee=t&timeout=0.05", content=b"x") for rest in ("x", "req/x", "res/x")
        ]
        asking = asyncio.create_task(client.get("/u/home/req/y"))
        assert (await client.get("/u/home/res/y")).status_code == 200
        asking.cancel()
        await until(lambda: not served.relay.asked)
        gone = await client.post("/u/home/res/y?tee=t", content=b"x")
    seen = [(answer.status_code, answer.headers.get("forge-message-id")) for answer in (*late, gone)]
    assert seen == [(408, "1"), (408, "2"), (408, "3"), (410, "4")]
    assert len(messages) == 4


async def test_a_node_that_stores_nothing_says_so() -> None:
    """PR7."""
    async with relaying() as served, served.client() as client:
        assert (await client.post("/p/x?tee=t", content=b"x")).status_code == 501


async def _passes(process: RelayProcess, size: int, *, chunked: bool) -> None:
    before = process.peak_bytes
    receiver, waiting = await asyncio.open_connection(process.host, process.port, limit=4 * MIB)
    waiting.write(b"GET /p/queue/large HTTP/1.1\r\nHost: x\r\n\r\n")
    reader, writer = await asyncio.open_connection(process.host, process.port)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    writer.write(b"POST /p/queue/large HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")

    async def send() -> None:
        block = b"%x\r\n" % MIB + BLOCK + b"\r\n" if chunked else BLOCK
        for _ in range(size // MIB):
            writer.write(block)
            await writer.drain()
        writer.write(b"0\r\n\r\n" if chunked else b"")

    sending = asyncio.create_task(send())
    head = await receiver.readuntil(b"\r\n\r\n")
    assert (b"transfer-encoding: chunked" if chunked else b"content-length: %d" % size) in head.lower()
    await _read(receiver, size, chunked=chunked)
    await sending
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    growth = process.peak_bytes - before
    print(f"{size // MIB} MiB passed, memory grew by {growth / MIB:.1f} MiB")
    assert growth < GROWTH_BYTES_MAX
    for one in (waiting, writer):
        await hang_up(one)


async def _read(receiver: asyncio.StreamReader, size: int, *, chunked: bool) -> None:
    """Read all of it; what comes is what was sent."""
    at = 0
    while at < size:
        length = int(await receiver.readline(), 16) if chunked else min(MIB, size - at)
        data = await receiver.readexactly(length)
        start = at % MIB
        assert data == (BLOCK[start:] + BLOCK)[: len(data)]
        at += length
        if chunked:
            await receiver.readexactly(2)
    assert at == size


async def _wait(process: RelayProcess, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Let so many wait, each at a channel of his own, until the server has all of them."""
    waiting = []
    for number in range(count):
        reader, writer = await asyncio.open_connection(process.host, process.port, limit=1024)
        writer.write(b"GET /p/queue/%d HTTP/1.1\r\nHost: x\r\nAuthorization: %b\r\n\r\n" % (number, TOKEN.encode()))
        waiting.append((reader, writer))
    probe, writer = await asyncio.open_connection(process.host, process.port)
    for number in range(count):  # served after all of them, one after the other, so all are known by then
        if number % 200 == 0:
            writer.write(b"GET /p/queue/probe?timeout=0.01 HTTP/1.1\r\nHost: x\r\n\r\n")
            await probe.readuntil(b"\r\n\r\n")
    await hang_up(writer)
    return waiting


def _threads(process: RelayProcess) -> int:
    return len(list(Path(f"/proc/{process.pid}/task").iterdir()))
