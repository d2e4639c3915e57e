"""Embedding workers that hang, lie, flood or go away: what becomes of the files, and of the node."""

import json

import httpx2

from tests.acceptance.asking import cid_of, lookup, present, rss_bytes, until, upload
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.acceptance.odd_worker import HUGE_BYTES, OddWorker

CALL_TIMEOUT_S = 8.0  # a stall of the machine must not be taken for a worker that hangs
ATTEMPTS = 2
CONCURRENCY = 4
ANSWER_BYTES_MAX = 10 << 20
REASONS = {
    "hang": "no answer within 8 s",
    "huge": f"larger than {ANSWER_BYTES_MAX} bytes",
    "nan": "not valid JSON",
    "infinite": "number",
    "nested": "only numbers",
    "empty": "non-empty",
    "words": "only numbers",
    "html": "not valid JSON",
    "cut": "broke off",
    "500": "no model is loaded",
}


async def jobs(http: httpx2.AsyncClient, status: str) -> dict[str, dict[str, object]]:
    """Return the jobs of one status by content hash."""
    answer = await http.get("/api/v1/jobs", params={"status": status, "limit": 1000})
    return {job["file_hash"]: job for job in answer.json()["jobs"]}


async def accepted(http: httpx2.AsyncClient, *contents: bytes) -> None:
    for content in contents:
        assert (await upload(http, content)).status_code == 202


def with_worker(worker: OddWorker, attempts: int = ATTEMPTS) -> dict[str, str]:
    return {
        "FORGE_VECTOR_WORKER_URL": worker.url,
        "FORGE_VECTOR_CALL_TIMEOUT_S": str(CALL_TIMEOUT_S),
        "FORGE_VECTOR_MAX_JOB_ATTEMPTS": str(attempts),
        "FORGE_VECTOR_WORKER_CONCURRENCY": str(CONCURRENCY),
    }


async def test_a_bad_answer_costs_an_attempt_and_the_last_one_makes_a_dead_letter(start_node: StartNode) -> None:
    """PR7, fault matrix: ten ways to fail, each tried as often as allowed, then listed, mended and put back."""
    files = {word: f"{word} file".encode() for word in REASONS}
    good = [f"good {number}".encode() for number in range(20)]
    async with OddWorker() as worker:
        node = await start_node(extra=with_worker(worker))
        async with node.http() as http:
            await accepted(http, *files.values(), *good)
            await present(http, *good)

            async def all_dead() -> bool:
                return len(await jobs(http, "error")) == len(files)

            await until(all_dead, "every bad file is a dead letter")
            assert {word: worker.calls[word] for word in REASONS} == dict.fromkeys(REASONS, ATTEMPTS)
            await failed_lists_each_with_its_reason(node, files)
            worker.mended = True
            requeued = await node.cli("vector", "requeue", "--all", "--json")
            assert (requeued.code, json.loads(requeued.out)) == (0, {"requeued": len(files)})
            await present(http, *files.values())
            assert await jobs(http, "error") == {}


async def failed_lists_each_with_its_reason(node: NodeProcess, files: dict[str, bytes]) -> None:
    listed = await node.cli("vector", "failed", "--json")
    assert listed.code == 0, listed.err
    dead = {job["file_hash"]: job for job in json.loads(listed.out)["jobs"]}
    for word, reason in REASONS.items():
        job = dead[cid_of(files[word])]
        assert reason in job["last_error"], (word, job)
        assert job["attempts"] == ATTEMPTS, (word, job)
    shown = await node.cli("vector", "failed")
    assert REASONS["hang"] in shown.out


async def test_answers_of_100_mib_are_cut_at_the_cap_and_memory_stays_flat(start_node: StartNode) -> None:
    """PR7: growth is bounded by the calls under way, not by what workers send; the same again adds nothing.

    Three times the cap for each call: what is read, its copy while the buffer grows, and the hole that leaves.
    """
    files = [f"huge {number}".encode() for number in range(8)]
    peaks: list[int] = []
    async with OddWorker() as worker:
        node = await start_node(extra=with_worker(worker))
        async with node.http() as http:
            await accepted(http, b"good one")
            await present(http, b"good one")
            before = rss_bytes(node.pid)
            for wave in (1, 2):
                peaks.append(0)
                await accepted(http, *files)  # dead letters are taken up again

                async def all_dead() -> bool:
                    peaks[-1] = max(peaks[-1], rss_bytes(node.pid))
                    return len(await jobs(http, "error")) == len(files)

                await until(all_dead, f"every file is a dead letter, wave {wave}")
    offered = worker.calls["huge"] * (HUGE_BYTES >> 20)
    print(f"memory: {before >> 20} MiB, then at most {[peak >> 20 for peak in peaks]}; {offered} MiB were offered")
    assert worker.calls["huge"] == 2 * len(files) * ATTEMPTS
    assert peaks[0] - before < CONCURRENCY * 3 * ANSWER_BYTES_MAX
    assert peaks[1] - peaks[0] < CONCURRENCY * ANSWER_BYTES_MAX


async def test_a_worker_that_is_away_costs_no_attempt_and_its_files_are_done_when_it_returns(
    start_node: StartNode,
) -> None:
    """PR7: with one attempt allowed, a single charged one would make dead letters; the breaker opens instead."""
    files = [f"good {number}".encode() for number in range(30)]
    worker = OddWorker()
    async with worker:
        await worker.stop()
        node = await start_node(extra=with_worker(worker, attempts=1))
        async with node.http() as http:
            await accepted(http, *files)

            async def breaker_open() -> bool:
                return "open" in (await http.get("/status")).json()["workers"]["breakers"].values()

            await until(breaker_open, "the breaker opens")
            assert set(await lookup(http, *files)) == {"processing"}
            assert await jobs(http, "error") == {}
            assert not worker.calls
            await worker.start()
            await present(http, *files)

            async def all_done() -> bool:  # a moment after the embeddings are there
                return len(await jobs(http, "done")) == len(files)

            await until(all_done, "all jobs are done")
            assert all(job["attempts"] == 0 for job in (await jobs(http, "done")).values())
            assert (await http.get("/status")).json()["workers"]["breakers"] == {worker.url: "closed"}


async def test_a_vector_of_another_dimension_is_refused_and_names_both(start_node: StartNode) -> None:
    """PR7: one dimension per kind and model; the rows that are there stay as they are."""
    async with OddWorker() as worker:
        node = await start_node(extra=with_worker(worker, attempts=1))
        async with node.http() as http:
            await accepted(http, b"good first")
            await present(http, b"good first")
            await accepted(http, b"longer second")

            async def dead() -> bool:
                return cid_of(b"longer second") in await jobs(http, "error")

            await until(dead, "the longer vector is refused")
            reason = str((await jobs(http, "error"))[cid_of(b"longer second")]["last_error"])
            assert "2 dimensions" in reason
            assert "this answer has 3" in reason
            stored = (await http.get(f"/api/v1/embeddings/text/{cid_of(b'good first')}")).json()
            assert stored["dimension"] == 2
