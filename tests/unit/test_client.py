"""The client library against an HTTP server that refuses, hangs up and says odd things."""

import asyncio
import random
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from forge.client import NO_RETRY, ForgeClient, ForgeError, NodeUnreachable, Retry, UnexpectedAnswer
from forge.client.retry import retry_after_s
from schemas.ids import Position
from tests.unit.http_peer import HANG_UP, Answer, Request, serving

CONTENT = b"some bytes"
HASH = blake3(CONTENT).hexdigest()
ACCEPTED = Answer(202, {"status": "accepted", "job_id": 7}, {"Forge-Position": "1.42"})


class Waits(list[float]):
    """A sleep that does not sleep, and a clock that believes it."""

    async def sleep(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0)

    def now(self) -> float:
        return sum(self)


def script(*answers: Answer) -> Any:
    """Answer with each of `answers` in turn, the last one for ever."""
    rest: Iterator[Answer] = iter(answers)
    last = answers[-1]
    return lambda _: next(rest, last)


def client(url: str, waits: Waits, **retry: Any) -> ForgeClient:
    return ForgeClient(url, "secret", retry=Retry(**retry), sleep=waits.sleep, clock=waits.now)


async def test_an_accepted_upload_tells_job_and_position_and_sends_token_hash_kind_and_length() -> None:
    async with serving(lambda _: ACCEPTED) as peer, client(peer.url, Waits()) as forge:
        result = await forge.upload(CONTENT, HASH.upper(), "text")

    assert (result.status, result.job_id, result.position) == ("accepted", 7, Position(1, 42))
    sent = peer.requests[0]
    assert (sent.method, sent.path, sent.body) == ("POST", "/api/v1/upload", CONTENT)
    assert sent.headers["authorization"] == "Bearer secret"
    assert (sent.headers["x-file-hash"], sent.headers["x-embedding-kind"]) == (HASH, "text")
    assert sent.headers["content-length"] == str(len(CONTENT))


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_in_seconds_is_the_shortest_wait(status: int) -> None:
    """G31: backoff that honours Retry-After."""
    waits = Waits()
    refusal = Answer(status, {"error": "later"}, {"Retry-After": "7"})
    async with serving(script(refusal, refusal, ACCEPTED)) as peer, client(peer.url, waits) as forge:
        await forge.upload(CONTENT, HASH, "text")

    assert len(peer.requests) == 3
    assert len(waits) == 2
    assert all(7 <= wait <= 7 + 7 for wait in waits)


async def test_retry_after_as_a_date_is_honoured() -> None:
    waits = Waits()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    refusal = Answer(503, {"error": "later"}, {"Retry-After": date})
    async with serving(script(refusal, ACCEPTED)) as peer, client(peer.url, waits) as forge:
        await forge.upload(CONTENT, HASH, "text")

    assert 20 <= waits[0] <= 60


async def test_a_wait_beyond_the_total_is_not_begun() -> None:
    """PR7: retries are bounded in time."""
    waits = Waits()
    refusal = Answer(429, {"error": "queue full"}, {"Retry-After": "3600"})
    async with serving(lambda _: refusal) as peer, client(peer.url, waits, total_s=60) as forge:
        with pytest.raises(ForgeError) as refused:
            await forge.upload(CONTENT, HASH, "text")

    assert refused.value.retry_after == 3600
    assert (len(peer.requests), waits) == (1, [])


async def test_retries_end_after_the_given_number_of_attempts() -> None:
    """PR7: retries are bounded in number."""
    async with serving(lambda _: Answer(503, {"error": "no"})) as peer, client(peer.url, Waits(), attempts=4) as forge:
        with pytest.raises(ForgeError, match="503"):
            await forge.lookup("text", [HASH])

    assert len(peer.requests) == 4


@pytest.mark.parametrize("form", ["bytes", "path", "open file"])
async def test_each_attempt_sends_the_whole_source_again(form: str, tmp_path: Path) -> None:
    content = random.Random(5).randbytes(3_000_000)
    path = tmp_path / "file"
    path.write_bytes(content)
    answers = script(Answer(503, {"error": "later"}), HANG_UP, ACCEPTED)
    async with serving(answers) as peer, client(peer.url, Waits()) as forge:
        with path.open("rb") as file:
            file.read(1000)
            source: Any = {"bytes": content, "path": path, "open file": file}[form]
            await forge.upload(source, blake3(content).hexdigest(), "text")

    assert [request.body == content for request in peer.requests] == [True] * 3


async def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    answers = script(HANG_UP, Answer(200, {"status": {HASH: "present"}}))
    async with serving(answers) as peer, client(peer.url, Waits()) as forge:
        assert await forge.lookup("text", [HASH, "ab"]) == {HASH: "present", "ab": "missing"}


async def test_a_node_that_is_away_is_reported_after_bounded_retries() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    waits = Waits()
    async with client(f"http://127.0.0.1:{port}", waits, unreachable_s=5) as forge:
        with pytest.raises(NodeUnreachable, match=str(port)):
            await forge.lookup("text", [HASH])

    assert waits
    assert sum(waits) <= 5


async def test_a_problem_becomes_an_error_with_all_its_fields_and_is_not_repeated() -> None:
    body = {"type": "urn:forge:problem:x", "title": "T", "detail": "D", "fix": "F", "request_id": "R", "error": "D"}
    async with serving(lambda _: Answer(413, body)) as peer, client(peer.url, Waits()) as forge:
        with pytest.raises(ForgeError) as refused:
            await forge.upload(CONTENT, HASH, "text")

    error = refused.value
    assert (error.status, error.type, error.title, error.detail) == (413, "urn:forge:problem:x", "T", "D")
    assert (error.fix, error.request_id, error.retry_after) == ("F", "R", None)
    assert len(peer.requests) == 1


@pytest.mark.parametrize("body", [{"error": "bad kind"}, b"<html>", ["odd"], None])
async def test_a_refusal_without_a_problem_body_is_an_error_all_the_same(body: Any) -> None:
    async with serving(lambda _: Answer(400, body)) as peer, client(peer.url, Waits()) as forge:
        with pytest.raises(ForgeError, match="400"):
            await forge.requeue(all=True)


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", {"status": "odd"}, []])
async def test_a_success_that_is_no_answer_of_ours_is_named_as_such(body: Any) -> None:
    async with serving(lambda _: Answer(200, body)) as peer, client(peer.url, Waits()) as forge:
        with pytest.raises(UnexpectedAnswer, match=peer.url):
            await forge.lookup("text", [HASH])


async def test_every_call_asks_its_path() -> None:
    job = {
        "job_id": 3,
        "file_hash": HASH,
        "kind": "text",
        "status": "error",
        "attempts": 3,
        "last_error": "no",
        "next_attempt_at": "t",
        "created_at": "t",
        "updated_at": "t",
    }
    vector = {"hash": HASH, "kind": "text", "model": "m", "dimension": 2, "vector": [0.6, 0.8]}
    vector |= {"created_at": "t", "updated_at": "t", "field_of_a_later_version": 1}
    hits = {"kind": "text", "model": "m", "hits": [{"hash": HASH, "score": 1.0}], "scanned": 9}

    def answer(request: Request) -> Answer:
        match request.method, request.path.split("?")[0]:
            case "POST", "/api/v1/search":
                return Answer(200, hits)
            case "GET", "/api/v1/jobs":
                return Answer(200, {"jobs": [job], "next": None if "after=3" in request.path else 3})
            case "POST", "/api/v1/jobs/requeue":
                return Answer(200, {"requeued": 1})
            case "GET", path if path == f"/api/v1/embeddings/text/{HASH}":
                return Answer(200, vector)
            case "GET", "/readyz":
                return Answer(503, {"nats": "away"})
        return Answer(200, {"ok": True})

    async with serving(answer) as peer, client(peer.url, Waits()) as forge:
        assert (await forge.search("text", hash=HASH, k=3)).hits[0].score == 1.0
        await forge.search("text", vector=[0.1, 0.2])
        assert (await forge.embedding("text", HASH)).vector == [0.6, 0.8]
        pages = [page async for page in forge.all_failed("text")]
        assert await forge.requeue("text", hashes=[HASH]) == 1
        assert await forge.status() == {"ok": True}
        assert (await forge.healthz()).ok
        ready = await forge.readyz()
        assert '"ok"' in await forge.metrics()

    assert (ready.ok, ready.body) == (False, {"nats": "away"})
    assert [page.jobs[0].last_error for page in pages] == ["no", "no"]
    assert peer.requests[0].json() == {"kind": "text", "k": 3, "hash": HASH}
    assert peer.requests[1].json() == {"kind": "text", "k": 10, "vector": [0.1, 0.2]}
    assert {"status=error", "kind=text", "limit=100"} <= set(peer.requests[3].path.split("?")[1].split("&"))
    assert peer.requests[5].json() == {"kind": "text", "hashes": [HASH]}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_health_check_is_asked_once(path: str) -> None:
    async with serving(lambda _: HANG_UP) as peer, ForgeClient(peer.url, retry=NO_RETRY) as forge:
        with pytest.raises(NodeUnreachable):
            await (forge.healthz() if path == "/healthz" else forge.readyz())

    assert len(peer.requests) == 1


@given(st.integers(1, 10_000), st.none() | st.floats(0, 1e6), st.floats(0, 1))
def test_a_wait_is_bounded_and_never_shorter_than_asked(failures: int, asked: float | None, part: float) -> None:
    retry = Retry(base_s=0.2, cap_s=10)

    wait = retry.wait_s(failures, asked, draw=lambda low, high: low + part * (high - low))

    assert (asked or 0) <= wait <= (asked or 0) + 10


@pytest.mark.parametrize(
    ("header", "expected"),
    [("0", 0.0), (" 12 ", 12.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", None), ("", None), (None, None)],
)
def test_retry_after_headers(header: str | None, expected: float | None) -> None:
    assert retry_after_s(header) == expected
