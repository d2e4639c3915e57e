"""The queue of the relay over real sockets: each message to one receiver, in order, and its sender told how it went."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from api.relay import visitors
from api.relay.body import SPOOL_BYTES
from tests.relaying import Relaying, hang_up, reading, relaying

JOBS = "/api/v1/db/home/streams/queue/jobs"
GET = b"GET %s HTTP/1.1\r\nHost: forge\r\nAuthorization: Bearer root-of-this-test\r\n\r\n"
POST = b"POST %s HTTP/1.1\r\nHost: forge\r\nAuthorization: Bearer root-of-this-test\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
async def served() -> AsyncIterator[Relaying]:
    async with relaying(small_buffers=True) as running:
        yield running
        await running.quiet()


async def test_a_message_reaches_whoever_waits_and_its_sender_is_answered(served: Relaying) -> None:
    """P4.1, S1."""
    async with served.client() as client:
        waiting = asyncio.create_task(client.get(f"{JOBS}/next"))
        await served.receivers(1)
        headers = {"content-type": "text/x", "patch-h-trace": "t7"}

        sent = await client.post(JOBS, content=b"encode 12", headers=headers)

        received = await waiting
        assert (sent.status_code, sent.content, sent.headers["content-length"]) == (200, b"", "0")
        assert (received.status_code, received.content) == (200, b"encode 12")
        assert received.headers["content-type"] == "text/x"
        assert received.headers["trace"] == "t7"


async def test_both_sides_are_served_in_the_order_in_which_they_came(served: Relaying) -> None:
    """P4.1, S1: six who wait get six that come later in order, and the other way round."""
    async with served.client() as client:
        waiting = []
        for number in range(6):
            waiting.append(asyncio.create_task(client.get(f"{JOBS}/next")))
            await served.receivers(number + 1)
        for number in range(6):
            await client.post(JOBS, content=b"%d" % number)
        assert [(await one).content for one in waiting] == [b"%d" % number for number in range(6)]

        offered = []
        for number in range(6):
            offered.append(asyncio.create_task(client.post(JOBS, content=b"%d" % number)))
            await served.senders(number + 1)
        assert [(await client.get(f"{JOBS}/next")).content for _ in range(6)] == [b"%d" % n for n in range(6)]
        assert {(await one).status_code for one in offered} == {200}


async def test_two_hundred_senders_and_receivers_meet_exactly_once(served: Relaying) -> None:
    """P4.1, S1: all at the same time; each message once, each sender told."""
    count = 200
    async with served.client() as client:

        async def send(number: int) -> int:
            return (await client.post(JOBS, content=b"message %d" % number)).status_code

        async def receive() -> bytes:
            return (await client.get(f"{JOBS}/next")).content

        sends = [asyncio.create_task(send(number)) for number in range(count)]
        received = await asyncio.gather(*(receive() for _ in range(count)))
        assert await asyncio.gather(*sends) == [200] * count
        assert sorted(received) == sorted(b"message %d" % number for number in range(count))


async def test_a_sender_is_answered_only_when_its_receiver_has_all_of_it(served: Relaying) -> None:
    """S2: as long as the receiver does not read, nothing is said."""
    async with served.client() as client:
        reader, writer = await served.slow(GET % f"{JOBS}/next".encode())
        await served.receivers(1)
        size = 64 << 20  # more than sockets keep
        sending = asyncio.create_task(client.post(JOBS, content=_pieces(size)))
        done, _ = await asyncio.wait([sending], timeout=0.5)
        assert not done

        reading(writer).resume_reading()
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        await _read_chunked(reader, size)
        assert (await sending).status_code == 200
        await hang_up(writer)


async def test_a_small_message_arrives_at_once_and_a_large_one_while_it_is_sent(served: Relaying) -> None:
    """S3: nobody waits for the rest of what is larger than the spool, and nobody sees half of what is not."""
    reader, writer = await served.raw(GET % f"{JOBS}/next".encode())
    _, sender = await served.raw(POST % (JOBS.encode(), 10) + b"first")
    await served.receivers(1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.3)
    sender.write(b"later")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert await reader.readexactly(10) == b"firstlater"

    writer.write(GET % f"{JOBS}/next".encode())
    size = 3 * SPOOL_BYTES
    _, large = await served.raw(POST % (JOBS.encode(), size) + bytes(2 * SPOOL_BYTES))
    head = await reader.readuntil(b"\r\n\r\n")
    assert f"Content-Length: {size}".lower().encode() in head.lower()
    await reader.readexactly(SPOOL_BYTES)
    large.write(bytes(SPOOL_BYTES))
    await reader.readexactly(2 * SPOOL_BYTES)
    for one in (writer, sender, large):
        await hang_up(one)


async def test_a_message_whose_receiver_fails_goes_to_the_next_one(served: Relaying) -> None:
    """S4: whole, before all others; its sender notices nothing."""
    body = bytes(range(256)) * (SPOOL_BYTES // 256)
    async with served.client() as client:
        _, failing = await served.slow(GET % f"{JOBS}/next".encode())
        await served.receivers(1)
        first = asyncio.create_task(client.post(JOBS, content=body))
        await served.receivers(0)
        second = asyncio.create_task(client.post(JOBS, content=b"second"))
        await served.senders(1)
        assert not first.done()
        await hang_up(failing)
        await served.senders(2)
        assert (await client.get(f"{JOBS}/next")).content == body
        assert (await client.get(f"{JOBS}/next")).content == b"second"
        assert (await first).status_code == 200
        assert (await second).status_code == 200


async def test_a_message_too_large_to_be_sent_again_is_reported_as_broken(served: Relaying) -> None:
    """3.7: its sender hears 502 rather than a 200 that is not true."""
    reader, failing = await served.raw(GET % f"{JOBS}/next".encode())
    await served.receivers(1)
    answer, sender = await served.raw(POST % (JOBS.encode(), 1 << 30) + bytes(3 * SPOOL_BYTES))
    await reader.readexactly(2 * SPOOL_BYTES)
    await hang_up(failing)
    head = await answer.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502")
    assert b"relay-broken" in await answer.read()
    await hang_up(sender)


async def test_a_receiver_sees_that_a_message_broke_off(served: Relaying) -> None:
    """3.7: what is incomplete is cut, never ended."""
    async with served.client() as client:
        waiting = asyncio.create_task(client.get(f"{JOBS}/next"))
        await served.receivers(1)
        _, sender = await served.raw(POST % (JOBS.encode(), 1 << 30) + bytes(4 * SPOOL_BYTES))
        await served.receivers(0)
        await hang_up(sender)
        with pytest.raises(httpx2.RemoteProtocolError):
            await waiting


async def test_who_left_before_anybody_came_leaves_no_trace(served: Relaying) -> None:
    """3.7, S13: a receiver is passed over, a message is not delivered."""
    async with served.client() as client:
        _, gone = await served.raw(GET % f"{JOBS}/next".encode())
        await served.receivers(1)
        await hang_up(gone)
        await served.receivers(0)
        _, gone = await served.raw(POST % (JOBS.encode(), 4) + b"gone")
        await served.senders(1)
        await hang_up(gone)
        await served.senders(0)
        assert len(served.relay.offers) == 0

        sending = asyncio.create_task(client.post(JOBS, content=b"here"))
        assert (await client.get(f"{JOBS}/next")).content == b"here"
        assert (await sending).status_code == 200


async def test_a_sender_that_leaves_while_its_whole_message_is_read_does_not_spoil_it(served: Relaying) -> None:
    """3.7: what arrived whole is delivered."""
    body = bytes(SPOOL_BYTES)
    reader, writer = await served.slow(GET % f"{JOBS}/next".encode())
    await served.receivers(1)
    _, sender = await served.raw(POST % (JOBS.encode(), len(body)) + body)
    await served.receivers(0)
    await hang_up(sender)
    reading(writer).resume_reading()
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(len(body)) == body
    await hang_up(writer)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_wait_that_is_over_is_no_success(served: Relaying, method: str) -> None:
    """S14, 9.5: 408, since for some clients any 2xx is a message; what was offered is withdrawn."""
    path = f"{JOBS}/next" if method == "GET" else JOBS
    async with served.client() as client:
        answer = await client.request(method, f"{path}?timeout=0.05")
        assert answer.status_code == 408
        assert answer.json()["type"] == "urn:forge:problem:wait-over"
        await served.quiet()


async def test_what_is_said_in_the_query_counts(served: Relaying) -> None:
    """S15, P4.6: text instead of a body, no body at all, nonsense refused before anything is offered."""
    async with served.client() as client:
        for query, content, expected in (
            ("body=by%20link", b"not this", b"by link"),
            ("discard", b"a secret", b""),
            ("discard=no&mode=queue", b"kept", b"kept"),
            ("pubsub=false", b"one", b"one"),
        ):
            waiting = asyncio.create_task(client.get(f"{JOBS}/next"))
            await served.receivers(1)
            assert (await client.post(f"{JOBS}?{query}", content=content)).status_code == 200
            assert (await waiting).content == expected
        waiting = asyncio.create_task(client.get(f"{JOBS}/next"))
        await served.receivers(1)
        assert (await client.get(f"{JOBS}?body=link")).status_code == 200
        assert (await waiting).content == b"link"
        for query in ("discard=maybe", "mode=x", "timeout=x", "timeout=0", "timeout=nan", "timeout=1e9", "pubsub=2"):
            assert (await client.post(f"{JOBS}?{query}", content=b"x")).status_code == 400, query
        assert (await client.get(JOBS)).status_code == 400


async def test_a_stopping_node_refuses_those_who_wait() -> None:
    """3.7: 503, and when to come back; what is being delivered is finished."""
    async with relaying() as served, served.client() as client:
        waiting = [asyncio.create_task(client.get(f"{JOBS}/next")) for _ in range(3)]
        asking = asyncio.create_task(client.post("/api/v1/db/home/streams/req/x", content=b"?"))
        offering = asyncio.create_task(client.post("/api/v1/db/home/streams/queue/other", content=b"!"))
        await served.receivers(3)
        await served.senders(2)
        await served.server.stop()
        for one in (*waiting, asking, offering):
            answer = await one
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
        await served.quiet()


async def test_what_has_no_room_is_refused_and_room_comes_back() -> None:
    """PR7: 503 with Retry-After past the bytes that one document may keep; others still have theirs."""
    async with relaying(bytes_max=4 * SPOOL_BYTES) as served, served.client() as client:
        body = bytes(SPOOL_BYTES)
        kept = [asyncio.create_task(client.post(JOBS, content=body)) for _ in range(2)]
        await served.senders(2)
        refused = await client.post(JOBS, content=body)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert (await client.post("/p/x?timeout=0.05", content=body)).status_code == 408
        for _ in kept:
            assert (await client.get(f"{JOBS}/next")).content == body
        assert {(await one).status_code for one in kept} == {200}
        await served.quiet()


async def test_an_address_without_a_token_can_only_wait_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """PR7: 429, so that connections are left for the others."""
    monkeypatch.setattr(visitors, "WAITING_MAX", 2)
    async with relaying() as served, served.client(headers={}) as anybody, served.client() as client:
        waiting = [asyncio.create_task(anybody.get("/p/x")) for _ in range(2)]
        await served.receivers(2)
        refused = await anybody.get("/p/x")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
        for _ in waiting:
            assert (await client.post("/p/x", content=b"m")).status_code == 200
        assert {(await one).status_code for one in waiting} == {200}
        assert (await anybody.get("/p/x?timeout=0.05")).status_code == 408
        await served.quiet()


async def test_messages_that_come_back_keep_their_order(served: Relaying) -> None:
    """S1, S4: whichever receiver fails first."""
    bodies = [b"%d" % number + bytes(SPOOL_BYTES // 2) for number in range(3)]
    async with served.client() as client:
        failing = []
        for number in range(3):
            failing.append((await served.slow(GET % f"{JOBS}/next".encode()))[1])
            await served.receivers(number + 1)
        sending = []
        for number, body in enumerate(bodies):
            sending.append(asyncio.create_task(client.post(JOBS, content=body)))
            await served.receivers(2 - number)
        for count, number in enumerate((1, 0, 2)):
            await hang_up(failing[number])
            await served.senders(count + 1)
        assert [(await client.get(f"{JOBS}/next")).content[:1] for _ in bodies] == [b"0", b"1", b"2"]
        assert {(await one).status_code for one in sending} == {200}


async def _pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size >> 16):
        yield bytes(1 << 16)


async def _read_chunked(reader: asyncio.StreamReader, size: int) -> None:
    left = size
    while length := int(await reader.readline(), 16):
        await reader.readexactly(length + 2)
        left -= length
    assert left == 0
