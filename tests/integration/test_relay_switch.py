"""Switches over real sockets: a responder takes a request, and answers it later at a channel that it named."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx2
import pytest

from api.relay import switch
from api.relay.body import SPOOL_BYTES
from tests.relaying import Relaying, hang_up, reading, relaying
from tests.waiting import until

REQ, RES, QUEUE = ("/api/v1/db/home/streams/" + rest for rest in ("req/square", "res/square", "queue"))
SWITCH = b"POST %s?switch HTTP/1.1\r\nHost: forge\r\nAuthorization: root-of-this-test\r\nContent-Length: %d\r\n\r\n%s"


@pytest.fixture
async def served() -> AsyncIterator[Relaying]:
    async with relaying(small_buffers=True) as running:
        yield running
        await running.quiet()


@pytest.mark.parametrize("responder_first", [True, False])
async def test_a_request_is_answered_at_the_channel_that_its_responder_named(
    served: Relaying, responder_first: bool
) -> None:
    """P4.4, S9: in either order; the responder gets the request with prefixed headers, the final status counts."""
    async with served.client() as client:

        async def ask() -> asyncio.Task[httpx2.Response]:
            headers = {"patch-h-user": "mia", "content-type": "application/json"}
            return asyncio.create_task(client.post(f"{REQ}?v=2&sig=x", content=b'{"n":4}', headers=headers))

        asking = None if responder_first else await ask()
        responding = asyncio.create_task(client.post(f"{RES}?switch=true", content=b" reply-81f\n"))
        if asking is None:
            await served.receivers(1)
            asking = await ask()
        request = await responding
        assert (request.status_code, request.content) == (200, b'{"n":4}')
        assert request.headers["content-type"] == "application/json"
        assert request.headers["patch-uri"] == f"{REQ}?v=2"
        assert request.headers["patch-method"] == "POST"
        assert request.headers["patch-h-user"] == "mia"
        final = await client.post(f"{QUEUE}/reply-81f", content=b"16", headers={"patch-status": "202"})
        assert (final.status_code, final.content) == (200, b"")
        answer = await asking
        assert (answer.status_code, answer.content) == (202, b"16")


@pytest.mark.parametrize("path", ["/public/{}", "/p/queue/{}", "/api/v1/db/public/streams/queue/{}"])
@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
async def test_the_answer_is_found_wherever_it_is_sent(served: Relaying, path: str, method: str) -> None:
    """A4: bare, below queue/ and on the canonical path; by POST, PUT and link."""
    async with served.client() as client:
        asking = asyncio.create_task(client.get("/public/req/x"))
        await client.post("/p/res/x?switch", content=b"N")
        query = "?body=16" if method == "GET" else ""
        sent = await client.request(method, path.format("N") + query, content=b"" if query else b"16")
        assert sent.status_code == 200
        assert (await asking).content == b"16"


async def test_an_answer_may_come_before_the_name_is_bound(served: Relaying) -> None:
    """S9: it waits, and is given to the request that its name is then bound to."""
    async with served.client() as client:
        early = asyncio.create_task(client.post(f"{QUEUE}/N", content=b"early"))
        await served.senders(1)
        responding = asyncio.create_task(client.post(f"{RES}?switch", content=b"N"))
        await served.receivers(1)
        answer = await client.post(REQ, content=b"q")
        assert answer.content == b"early"
        assert (await responding).content == b"q"
        assert (await early).status_code == 200


async def test_a_responder_that_leaves_before_any_request_gives_its_name_back(served: Relaying) -> None:
    """3.7, S9: what came for it waits in its queue as before."""
    async with served.client() as client:
        _, leaving = await served.raw(SWITCH % (RES.encode(), 1, b"N"))
        await until(lambda: len(served.relay.switch) == 1)
        early = asyncio.create_task(client.post(f"{QUEUE}/N", content=b"early"))
        await until(lambda: served.relay.budget.used_bytes == 5)
        await hang_up(leaving)
        assert (await client.get(f"{QUEUE}/N/next")).content == b"early"
        assert (await early).status_code == 200
        responding = asyncio.create_task(client.post(f"{RES}?switch&timeout=0.05", content=b"N"))
        assert (await responding).status_code == 408


async def test_a_name_belongs_to_one_responder(served: Relaying) -> None:
    """S9: who asks for one that is bound, or was not long ago, hears 409, so that answers cannot be swapped."""
    async with served.client() as client:
        first = asyncio.create_task(client.post(f"{RES}?switch", content=b"N"))
        await served.receivers(1)
        second = await client.post(f"{RES}?switch", content=b"N")
        assert (second.status_code, second.json()["type"]) == (409, "urn:forge:problem:switch-name-taken")
        asking = asyncio.create_task(client.post(REQ, content=b"q"))
        await first
        assert (await client.post(f"{QUEUE}/N", content=b"a")).status_code == 200
        assert (await asking).content == b"a"
        assert (await client.post(f"{RES}?switch", content=b"N")).status_code == 409
        assert (await client.post(f"{QUEUE}/N", content=b"again")).status_code == 410


async def test_who_waits_at_the_name_of_an_answer_does_not_get_it(served: Relaying) -> None:
    """P4.4: to guess a name is not enough to hear what is said there."""
    async with served.client() as client:
        guessing = asyncio.create_task(client.get(f"{QUEUE}/N/next"))
        await served.receivers(1)
        asking = asyncio.create_task(client.post(REQ, content=b"q"))
        await client.post(f"{RES}?switch", content=b"N")
        assert (await client.post(f"{QUEUE}/N", content=b"a")).status_code == 200
        assert (await asking).content == b"a"
        assert not guessing.done()
        guessing.cancel()


async def test_a_token_that_may_not_send_there_cannot_catch_what_others_send(served: Relaying) -> None:
    """PR6: else a responder could name the queue of somebody else."""
    narrow = served.mint("narrow", ("stream.write", "home", "res"), ("stream.write", "home", "queue/mine"))
    async with served.client(headers={"authorization": narrow}) as client:
        assert (await client.post(f"{RES}?switch&timeout=0.05", content=b"jobs")).status_code == 403
        assert (await client.post(f"{RES}?switch&timeout=0.05", content=b"mine")).status_code == 408


async def test_the_answer_that_never_comes_is_a_504_on_the_wire() -> None:
    """P4.4, A.14, S9: on time, counted from when the responder had all of the request; what comes late hears 410."""
    async with relaying(answer_s=0.5) as served, served.client() as client:
        asking = asyncio.create_task(client.post(REQ, content=b"q"))
        await client.post(f"{RES}?switch", content=b"N")
        taken = time.monotonic()
        answer = await asking
        assert (answer.status_code, answer.json()["type"]) == (504, "urn:forge:problem:no-answer")
        assert time.monotonic() - taken > 0.4
        assert (await client.post(f"{QUEUE}/N", content=b"late")).status_code == 410
        await served.quiet()


async def test_the_time_for_an_answer_begins_when_the_responder_has_the_request() -> None:
    """S9: a responder that is slow to read loses nothing of it, and its requester waits that long."""
    async with relaying(answer_s=3, small_buffers=True) as served, served.client() as client:
        reader, slow = await served.slow(SWITCH % (RES.encode(), 1, b"N"))
        await served.receivers(1)
        asking = asyncio.create_task(client.post(REQ, content=bytes(SPOOL_BYTES)))
        done, _ = await asyncio.wait([asking], timeout=3.5)
        assert not done
        reading(slow).resume_reading()
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(SPOOL_BYTES)
        assert (await client.post(f"{QUEUE}/N", content=b"a")).status_code == 200
        assert (await asking).content == b"a"
        await hang_up(slow)


async def test_an_answer_whose_requester_left_is_dropped(served: Relaying) -> None:
    """3.7: its sender hears 410, also if the requester leaves while it reads."""
    ask = b"POST %s HTTP/1.1\r\nHost: forge\r\nAuthorization: root-of-this-test\r\nContent-Length: 1\r\n\r\nq"
    async with served.client() as client:
        _, gone = await served.raw(ask % REQ.encode())
        await client.post(f"{RES}?switch", content=b"N")
        await hang_up(gone)
        await until(lambda: not served.relay.asked)
        assert (await client.post(f"{QUEUE}/N", content=b"a")).status_code == 410

        _, leaving = await served.slow(ask % REQ.encode())
        await client.post(f"{RES}?switch", content=b"M")
        answering = asyncio.create_task(client.post(f"{QUEUE}/M", content=bytes(SPOOL_BYTES)))
        await until(lambda: not served.relay.asked)
        await hang_up(leaving)
        assert (await answering).status_code == 410


@pytest.mark.parametrize("body", [b"", b" \n", b"a/b", b"a?b", b"x" * 129, b"\xff", b"a\x00b"])
async def test_a_name_that_is_none_is_refused(served: Relaying, body: bytes) -> None:
    """S9: before anything waits."""
    async with served.client() as client:
        assert (await client.post(f"{RES}?switch", content=body)).status_code == 400


async def test_a_name_can_be_used_again_after_a_while(served: Relaying, monkeypatch: pytest.MonkeyPatch) -> None:
    """S9."""
    monkeypatch.setattr(switch, "REMEMBER_S", 0.2)
    async with served.client() as client:
        for _ in range(2):
            asking = asyncio.create_task(client.post(REQ, content=b"q"))
            await client.post(f"{RES}?switch", content=b"N")
            await client.post(f"{QUEUE}/N", content=b"a")
            assert (await asking).content == b"a"
            await asyncio.sleep(0.25)  # the clock is the condition
