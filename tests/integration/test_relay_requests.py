"""Requests and their answers over real sockets: everybody gets his own, and nobody somebody else's."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from api.relay import slots
from api.relay.body import SPOOL_BYTES
from tests.relaying import Relaying, hang_up, reading, relaying
from tests.waiting import until

REQ, RES = "/api/v1/db/home/streams/req/square", "/api/v1/db/home/streams/res/square"
ASK = b"POST %s HTTP/1.1\r\nHost: forge\r\nAuthorization: root-of-this-test\r\nContent-Length: %d\r\n\r\n%s"
TAKE = b"GET %s HTTP/1.1\r\nHost: forge\r\nAuthorization: root-of-this-test\r\n\r\n" % RES.encode()


@pytest.fixture
async def served() -> AsyncIterator[Relaying]:
    async with relaying(answer_s=30, small_buffers=True) as running:
        yield running
        await running.quiet()


async def test_an_answer_in_advance_serves_one_request_and_tells_which(served: Relaying) -> None:
    """P4.3, P4.9, S7: both orders of arrival; status and headers of the answer, metadata and body of the request."""
    async with served.client() as client:
        responding = asyncio.create_task(
            client.post(f"{RES}?request", content=b"made", headers={"patch-status": "201", "patch-h-x-room": "5"})
        )
        await served.receivers(1)
        asked = await client.request("DELETE", f"{REQ}?who=mia", content=b"which?", headers={"patch-h-user": "mia"})
        assert (asked.status_code, asked.content, asked.headers["x-room"]) == (201, b"made", "5")
        assert not [name for name in asked.headers if name.startswith("patch-")]
        served_one = await responding
        assert (served_one.status_code, served_one.content) == (200, b"which?")
        assert served_one.headers["patch-method"] == "DELETE"
        assert served_one.headers["patch-uri"] == f"{REQ}?who=mia"
        assert served_one.headers["patch-h-user"] == "mia"

        asking = asyncio.create_task(client.get(REQ))
        await served.senders(1)
        done = await client.put(RES, content=b"ready")
        assert (done.status_code, done.content, done.headers["patch-method"]) == (200, b"", "GET")
        assert (await asking).content == b"ready"


async def test_fifty_requesters_each_get_their_own_answer(served: Relaying) -> None:
    """P4.3, S6: at the same time, with ten workers that answer at channels they name."""
    count, workers = 50, 10
    async with served.client() as client:

        async def ask(number: int) -> bytes:
            return (await client.post(REQ, content=b"%d" % number)).content

        async def work(worker: int) -> None:
            for turn in range(count // workers):
                name = f"answer-{worker}-{turn}"
                request = await client.post(f"{RES}?switch", content=name.encode())
                answer = b"%d" % (int(request.content) ** 2)
                sent = await client.post(f"/api/v1/db/home/streams/queue/{name}", content=answer)
                assert sent.status_code == 200

        asking = [asyncio.create_task(ask(number)) for number in range(count)]
        await asyncio.gather(*(work(worker) for worker in range(workers)))
        assert await asyncio.gather(*asking) == [b"%d" % number**2 for number in range(count)]


async def test_a_responder_that_only_takes_is_followed_by_its_answer(served: Relaying) -> None:
    """S8: the next answer is for the oldest request that was taken, and does not wait for another one."""
    async with served.client() as client:
        asking = []
        for number in range(3):
            asking.append(asyncio.create_task(client.post(REQ, content=b"%d" % number)))
            await served.senders(number + 1)
        for number in range(3):
            assert (await client.get(RES)).content == b"%d" % number
        for number in range(3):
            assert (await client.post(RES, content=b"to %d" % number)).status_code == 200
        assert [(await one).content for one in asking] == [b"to 0", b"to 1", b"to 2"]


async def test_an_answer_to_somebody_who_left_reaches_nobody(served: Relaying) -> None:
    """P4.3, 3.7: its sender hears 410, and whoever asks next is not given it."""
    async with served.client() as client:
        _, gone = await served.raw(ASK % (REQ.encode(), 6, b"secret"))
        await served.senders(1)
        assert (await client.get(RES)).content == b"secret"
        await hang_up(gone)
        await until(lambda: not served.relay.asked)
        asking = asyncio.create_task(client.post(REQ, content=b"next"))
        await served.senders(1)

        late = await client.post(RES, content=b"for the one who left")
        assert late.status_code == 410
        assert late.json()["type"] == "urn:forge:problem:requester-gone"
        assert (await client.post(RES, content=b"for the next")).status_code == 200
        assert (await asking).content == b"for the next"


async def test_a_requester_who_leaves_before_anybody_took_his_request_leaves_no_trace(served: Relaying) -> None:
    """3.7."""
    async with served.client() as client:
        _, gone = await served.raw(ASK % (REQ.encode(), 1, b"x"))
        await served.senders(1)
        await hang_up(gone)
        await served.senders(0)
        _, responder = await served.raw(TAKE)
        await served.receivers(1)
        await hang_up(responder)
        await served.receivers(0)
        answering = asyncio.create_task(client.post(RES, content=b"a"))
        await served.receivers(1)
        assert (await client.post(REQ, content=b"q")).content == b"a"
        assert (await answering).status_code == 200


async def test_a_request_whose_responder_dies_while_taking_it_goes_to_the_next(served: Relaying) -> None:
    """S4, 3.7: as long as all of it can be read again."""
    body = bytes(SPOOL_BYTES)
    async with served.client() as client:
        _, dying = await served.slow(TAKE)
        await served.receivers(1)
        asking = asyncio.create_task(client.post(REQ, content=body))
        await served.receivers(0)
        await hang_up(dying)
        await served.senders(1)
        assert (await client.get(RES)).content == body
        assert (await client.post(RES, content=b"done")).status_code == 200
        assert (await asking).content == b"done"


async def test_a_large_request_whose_responder_dies_is_broken(served: Relaying) -> None:
    """3.7: 502, since nobody else can have all of it."""
    reader, dying = await served.slow(TAKE)
    await served.receivers(1)
    answer, asker = await served.raw(ASK % (REQ.encode(), 1 << 30, bytes(4 * SPOOL_BYTES)))
    await served.receivers(0)
    reading(dying).resume_reading()
    await reader.readexactly(2 * SPOOL_BYTES)
    await hang_up(dying)
    assert (await answer.readuntil(b"\r\n")).startswith(b"HTTP/1.1 502")
    await hang_up(asker)


async def test_large_requests_and_answers_pass(served: Relaying) -> None:
    """P4.12, S3: both ways at once, far beyond what is kept; the request goes through before the answer comes."""
    size = 8 << 20
    async with served.client() as client:
        asking = asyncio.create_task(client.post(REQ, content=b"q" * size))
        async with client.stream("GET", RES) as request:
            received = 0
            async for chunk in request.aiter_raw():
                received += len(chunk)
        assert received == size
        answered = await client.post(RES, content=b"a" * size)
        assert answered.status_code == 200
        assert (await asking).content == b"a" * size

        asking = asyncio.create_task(client.post(REQ, content=b"q" * size))
        await served.senders(1)
        answered = await client.post(f"{RES}?request", content=b"prepared")
        assert answered.headers["patch-request-omitted"] == "true"
        assert (await asking).content == b"prepared"


async def test_a_request_that_was_taken_but_not_answered_fails_in_time_and_so_does_its_late_answer() -> None:
    """P4.4, S8: 504 to the requester, 410 to the answer."""
    async with relaying(answer_s=0.2) as served, served.client() as client:
        asking = asyncio.create_task(client.post(REQ, content=b"q"))
        assert (await client.get(RES)).content == b"q"
        answer = await asking
        assert (answer.status_code, answer.json()["type"]) == (504, "urn:forge:problem:no-answer")
        assert (await client.post(RES, content=b"late")).status_code == 410
        await served.quiet()


async def test_that_somebody_left_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """S9: then an answer waits for the next request, as usual."""
    monkeypatch.setattr(slots, "FORGET_S", 0.1)
    async with relaying(answer_s=0.1) as served, served.client() as client:
        asking = asyncio.create_task(client.post(REQ, content=b"q"))
        await client.get(RES)
        assert (await asking).status_code == 504
        await until(lambda: len(served.relay.slots) == 0)
        answering = asyncio.create_task(client.post(RES, content=b"a"))
        await served.receivers(1)
        assert (await client.post(REQ, content=b"q")).content == b"a"
        assert (await answering).status_code == 200


async def test_an_answer_that_breaks_off_is_cut_or_reported(served: Relaying) -> None:
    """3.7: its requester never takes a part of it for the whole."""
    async with served.client() as client:
        asking = asyncio.create_task(client.post(REQ, content=b"q"))
        await served.senders(1)
        _, responder = await served.raw(ASK % (RES.encode(), 1 << 30, bytes(4 * SPOOL_BYTES)))
        await served.senders(0)
        await hang_up(responder)
        with pytest.raises(httpx2.RemoteProtocolError):
            (await asking).raise_for_status()


@pytest.mark.parametrize("status", [204, 205, 304])
@pytest.mark.parametrize("size", [0, 1, 100_000, 4 * SPOOL_BYTES])
async def test_an_answer_that_may_have_no_body_has_none(served: Relaying, status: int, size: int) -> None:
    """P4.3: on the requester's connection the next answer follows, and the responder hears that it was delivered."""
    ask = ASK % (REQ.encode(), 1, b"q")
    async with served.client() as client:
        answer, asker = await served.raw(ask)
        for expected in (status, 200):
            headers = {"patch-status": str(expected)}
            done = await client.post(RES, content=b"a" * size if expected != 200 else b"", headers=headers)
            assert (done.status_code, done.text) == (200, "")
            head = (await answer.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 %d " % expected)
            assert b"transfer-encoding" not in head
            lengths = [line for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
            assert lengths == ([] if expected in (204, 304) else [b"content-length: 0"])
            if expected == status:
                asker.write(ask)
                await asker.drain()
                await served.senders(1)
        await hang_up(asker)


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_a_requester_that_leaves_with_the_end_of_the_headers_has_all_of_such_an_answer(
    served: Relaying, status: int
) -> None:
    """P4.3: so its responder is not told that nobody waited."""
    answer, asker = await served.raw(ASK % (REQ.encode(), 1, b"q"))
    await served.senders(1)
    size = 4 * SPOOL_BYTES
    statement = b"Patch-Status: %d\r\nContent-Length: %d" % (status, size)
    prepared = ASK.replace(b"Content-Length: %d", statement) % (RES.encode(), b"a" * (size - 1))
    done, responder = await served.raw(prepared)
    assert (await answer.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 %d " % status)
    await hang_up(asker)
    responder.write(b"a")
    assert (await done.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
    await hang_up(responder)


async def test_a_wait_for_an_answer_may_be_bounded(served: Relaying) -> None:
    """S14: 408, on both sides."""
    async with served.client() as client:
        for method, path in (("POST", REQ), ("POST", RES), ("GET", RES), ("POST", f"{RES}?switch")):
            mark = "&" if "?" in path else "?"
            answer = await client.request(method, f"{path}{mark}timeout=0.05", content=b"name" if mark == "&" else b"")
            assert answer.status_code == 408, path
