"""The published contract of the vector service, as docs/vector.md states it: statuses, keys, order of checks."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.acceptance.asking import cid_of, files_below, lookup, present, until, upload
from tests.acceptance.conftest import StartNode
from tests.acceptance.odd_worker import OddWorker

UPLOAD_MAX = 2000
PENDING_MAX = 2


@contextlib.asynccontextmanager
async def chunks(*parts: bytes) -> AsyncIterator[Any]:
    """Give a body without a length, which is sent chunked."""

    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    yield body()


def problem(response: httpx2.Response) -> tuple[int, str, str | None]:
    """Return status, type and field of a refusal, after checking what every refusal must have."""
    body = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert body["status"] == response.status_code
    assert body["error"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert ("retry-after" in response.headers) == (response.status_code in (429, 503))
    return response.status_code, body["type"].removeprefix("urn:forge:problem:"), body.get("field")


async def test_an_upload_is_checked_in_the_published_order(start_node: StartNode) -> None:
    """Each request has all the faults behind its own, too; the first one answers (G23, G24, PR6, PR7)."""
    async with OddWorker() as worker:
        node = await start_node(
            extra={
                "FORGE_UPLOAD_BYTES_MAX": str(UPLOAD_MAX),
                "FORGE_VECTOR_MAX_PENDING_JOBS": str(PENDING_MAX),
                "FORGE_VECTOR_WORKER_URL": worker.url,
                "FORGE_VECTOR_WORKER_CONCURRENCY": "1",
            }
        )
        large = b"x" * (UPLOAD_MAX + 1)
        no_hash, no_kind = {"X-File-Hash": "../etc"}, {"X-Embedding-Kind": "audio"}
        wrong = {"X-File-Hash": "0" * 64, "X-Embedding-Kind": "TEXT"}
        async with node.http() as http:
            nobody = {"Authorization": "Bearer forge_nobody"}

            async def ask(content: Any, headers: dict[str, str], path: str = "/api/v1/upload") -> tuple[object, ...]:
                return problem(await http.post(path, content=content, headers=headers))

            assert await ask(large, nobody | no_hash, "/api/v1/uploads") == (404, "not-found", None)
            assert problem(await http.put("/api/v1/upload", headers=nobody)) == (405, "method-not-allowed", None)
            assert await ask(large, nobody | no_hash) == (401, "unauthenticated", None)
            assert await ask(large, no_hash | no_kind) == (413, "body-too-large", None)
            assert await ask(b"", no_kind) == (400, "invalid-parameter", "X-File-Hash")
            assert await ask(b"", no_hash | no_kind) == (400, "invalid-parameter", "X-File-Hash")
            assert await ask(b"", wrong | no_kind) == (400, "invalid-parameter", "X-Embedding-Kind")
            async with chunks(large) as body:
                assert await ask(body, wrong) == (413, "body-too-large", None)
            assert await ask(b"some text", wrong) == (400, "invalid-parameter", "X-File-Hash")
            assert await ask(b"", wrong | {"X-File-Hash": cid_of(b"")}) == (400, "invalid-body", None)
            assert files_below(node.cache / "blobs") == set()

            async def one_hangs() -> bool:
                return bool(worker.calls["hang"])

            assert (await upload(http, b"hang")).status_code == 202
            await until(one_hangs, "the only call that is allowed hangs, so that the others stay pending")
            for number in range(PENDING_MAX + 1):
                assert (await upload(http, b"good %d" % number)).status_code == 202

            async def full() -> bool:
                return await ask(b"some text", wrong) == (429, "too-many-requests", None)

            await until(full, "the queue is seen to be full, before the body is looked at")
            assert files_below(node.cache / "vector") == set()


async def test_an_upload_is_answered_by_what_is_known_of_the_file(start_node: StartNode) -> None:
    """202 with the job, the same job while it works, 200 when the vector is there; other kinds are other files."""
    node = await start_node()
    async with node.http() as http:
        first = await upload(http, b"a text", kind="Text")
        assert (first.status_code, first.json()) == (202, {"status": "accepted", "job_id": 1})
        await present(http, b"a text")
        again = await upload(http, b"a text", file_hash=cid_of(b"a text").upper())
        assert (again.status_code, again.json()) == (200, {"status": "already_present"})
        assert await lookup(http, b"a text", kind="image") == ["missing"]

        async with chunks(b"sent ", b"in parts") as body:
            headers = {"X-File-Hash": cid_of(b"sent in parts"), "X-Embedding-Kind": "text"}
            chunked = await http.post("/api/v1/upload", content=body, headers=headers)
        assert (chunked.status_code, chunked.json()) == (202, {"status": "accepted", "job_id": 2})
        await present(http, b"sent in parts")


async def test_an_idempotency_key_gets_its_first_answer_again(start_node: StartNode) -> None:
    """PR5: the same request, the same answer and position; another request under the key is 422."""
    node = await start_node()
    async with node.http() as http:
        key = {"Idempotency-Key": "one", "X-Embedding-Kind": "text"}

        async def send(content: bytes) -> httpx2.Response:
            return await http.post("/api/v1/upload", content=content, headers=key | {"X-File-Hash": cid_of(content)})

        first, second = await send(b"a text"), await send(b"a text")
        assert (first.status_code, first.json(), first.headers["forge-position"]) == (
            *(second.status_code, second.json()),
            second.headers["forge-position"],
        )
        await present(http, b"a text")
        third = await send(b"a text")  # done by now, and still the first answer
        assert (third.status_code, third.json()) == (first.status_code, first.json())
        assert problem(await send(b"another text")) == (422, "unprocessable", None)
        too_long = {"Idempotency-Key": "k" * 256, "X-Embedding-Kind": "text", "X-File-Hash": cid_of(b"a third text")}
        refused = await http.post("/api/v1/upload", content=b"a third text", headers=too_long)
        assert problem(refused) == (400, "invalid-parameter", "Idempotency-Key")


async def test_a_lookup_answers_each_hash_as_it_was_sent(start_node: StartNode) -> None:
    node = await start_node()
    async with node.http() as http:
        await upload(http, b"a text")
        await present(http, b"a text")
        known = cid_of(b"a text")

        async def ask(kind: str, hashes: list[str]) -> httpx2.Response:
            return await http.post("/api/v1/lookup", json={"kind": kind, "hashes": hashes})

        asked = await ask(" TEXT ", [known, known.upper(), f" {known} ", "no hash", "", "  "])
        assert asked.json() == {"status": {known: "present", known.upper(): "present", "no hash": "missing"}}
        assert (await ask("text", ["", " "])).json() == {"status": {}}
        assert problem(await ask("text", []))[:2] == (400, "invalid-body")
        assert problem(await ask("audio", [known]))[:2] == (400, "invalid-body")


async def test_a_search_takes_a_hash_or_a_vector_and_leaves_the_file_itself_out(start_node: StartNode) -> None:
    node = await start_node()
    texts = [b"small boats in the harbour", b"the harbour and its small boats", b"an invoice for March"]
    async with node.http() as http:
        for text in texts:
            await upload(http, text)
        await present(http, *texts)
        stored = (await http.get(f"/api/v1/embeddings/text/{cid_of(texts[0])}")).json()
        assert stored["dimension"] == len(stored["vector"])

        async def ask(**body: object) -> httpx2.Response:
            return await http.post("/api/v1/search", json={"kind": "text"} | body)

        by_hash = (await ask(hash=cid_of(texts[0]).upper(), k=2)).json()
        assert [hit["hash"] for hit in by_hash["hits"]] == [cid_of(texts[1]), cid_of(texts[2])]
        assert (by_hash["kind"], by_hash["model"], by_hash["scanned"]) == ("text", stored["model"], 2)
        by_vector = (await ask(vector=stored["vector"], k=1)).json()
        assert by_vector["hits"] == [{"hash": cid_of(texts[0]), "score": pytest.approx(1.0, abs=1e-6)}]

        assert problem(await ask(hash="0" * 64)) == (404, "not-found", None)
        assert problem(await ask())[:2] == (400, "invalid-body")
        assert problem(await ask(hash=cid_of(texts[0]), vector=[1.0]))[:2] == (400, "invalid-body")
        assert problem(await ask(vector=[1.0, 2.0])) == (400, "invalid-body", "vector")
        assert problem(await ask(hash=cid_of(texts[0]), k=1001))[:2] == (400, "invalid-body")


async def test_a_lost_payload_costs_no_attempt_and_uploading_the_file_again_mends_it(start_node: StartNode) -> None:
    """G17: the job is parked, told to be missing, and an upload brings it and its bytes back."""
    async with OddWorker() as worker:
        await worker.stop()
        node = await start_node(extra={"FORGE_VECTOR_WORKER_URL": worker.url, "FORGE_VECTOR_MAX_JOB_ATTEMPTS": "1"})
        async with node.http() as http:
            assert (await upload(http, b"good text")).status_code == 202
            (payload,) = (node.cache / "blobs").rglob("*.blob")
            payload.write_bytes(b"evil text")
            await worker.start()

            async def parked() -> list[Any]:
                answer = await http.get("/api/v1/jobs", params={"status": "awaiting_payload"})
                return list(answer.json()["jobs"])

            await until(parked, "the job waits for its bytes")
            (job,) = await parked()
            assert (job["attempts"], job["file_hash"]) == (0, cid_of(b"good text"))
            assert "missing or damaged" in job["last_error"]
            assert await lookup(http, b"good text") == ["missing"]
            assert (await http.get("/status")).json()["jobs"]["awaiting_payload"] == 1
            assert 'forge_jobs{status="awaiting_payload"} 1.0' in (await http.get("/metrics")).text

            mended = await upload(http, b"good text")
            assert (mended.status_code, mended.json()) == (202, {"status": "accepted", "job_id": job["job_id"]})
            await present(http, b"good text")
            assert payload.read_bytes() == b"good text"
            assert [path.read_bytes() for path in (node.cache / "blobs/quarantine").iterdir()] == [b"evil text"]
