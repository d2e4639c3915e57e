"""What becomes of files and their embeddings when disks, machines or the object store are lost."""

import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from events.objects.s3 import S3Store
from forge.stack.weed import Weed
from schemas.archive import payload_key
from tests.acceptance.asking import cid_of, lookup, present, until, upload
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.acceptance.odd_worker import OddWorker
from tests.faults.killer import fresh_seed, kill
from tests.faults.proxy import TcpProxy
from tests.s3_stores import s3_environ, s3_store

GOOD = b"good text"
LEASE = {"FORGE_LEASE_DURATION_S": "15", "FORGE_LEASE_MARGIN_S": "2", "FORGE_LEASE_RENEW_S": "1"}


@pytest.fixture
def prefix() -> str:
    return f"vector-{random.Random(fresh_seed()).randrange(1 << 30)}"


async def test_a_job_whose_bytes_are_lost_takes_them_from_the_archive(
    start_node: StartNode, weed: Weed, prefix: str
) -> None:
    """G17: no attempt is charged, and nobody has to upload anything."""
    store = s3_store(weed)
    async with OddWorker() as worker:
        await worker.stop()
        extra = s3_environ(weed, prefix=prefix) | {"FORGE_VECTOR_WORKER_URL": worker.url, "FORGE_ARCHIVE_SEAL_S": "0.1"}
        node = await start_node(extra=extra)
        async with node.http() as http:
            assert (await upload(http, GOOD)).status_code == 202
            await _stored(store, prefix, GOOD)
            (payload,) = (node.cache / "blobs").rglob("*.blob")
            payload.unlink()

            async def fetched() -> bool:
                return payload.exists()

            await until(fetched, "an attempt that began without the bytes has fetched them")
            await worker.start()
            await present(http, GOOD)

            assert payload.read_bytes() == GOOD
            assert await _attempts(http, 1) == [0]
            assert 'forge_payloads_fetched_total{outcome="fetched"} 1.0' in (await http.get("/metrics")).text
    await store.close()


async def test_an_upload_may_wait_until_its_bytes_are_in_the_object_store(
    start_node: StartNode, weed: Weed, prefix: str
) -> None:
    """G17, PR1: whoever takes over has the bytes of every upload that was answered, and no other is recorded."""
    parts = urlsplit(weed.s3_url)
    store = s3_store(weed)
    async with OddWorker() as worker, TcpProxy(parts.hostname or "", parts.port or 0) as proxy:
        extra = s3_environ(weed, prefix=prefix, port=proxy.port) | {"FORGE_VECTOR_WORKER_URL": worker.url}
        quick = {"FORGE_VECTOR_QUEUE_ACK_TIMEOUT_MS": "2000"}
        node = await start_node(extra=extra | {"FORGE_PAYLOAD_ACK": "remote", "FORGE_ARCHIVE_SEAL_S": "600"} | quick)
        async with node.http() as http:
            await proxy.refuse()
            await proxy.drop_connections()
            refused = await upload(http, GOOD)
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:forge:problem:unavailable")
            assert "object store" in refused.json()["detail"]
            assert await lookup(http, GOOD) == ["missing"]

            proxy.accept()

            async def accepted() -> bool:
                return (await upload(http, GOOD)).status_code == 202

            await until(accepted, "the upload is accepted")
            assert await store.size(f"{prefix}/{payload_key(cid_of(GOOD))}") == len(GOOD)
    await store.close()


async def test_a_node_without_an_object_store_does_not_promise_one(tmp_path: Path) -> None:
    """G17: a promise that cannot be kept is refused at the start, with what to set."""
    node = NodeProcess(tmp_path, extra={"FORGE_PAYLOAD_ACK": "remote"})

    said = await node.cli("up", "--listen", "127.0.0.1:0")

    assert said.code == 2
    assert "FORGE_S3_BUCKET" in said.err


async def test_a_lost_machine_goes_on_with_both_databases_where_they_were(
    start_node: StartNode, weed: Weed, prefix: str
) -> None:
    """G17, G18, PR4: queue and embeddings agree, the processed waits again, bytes come back, no attempt is burnt."""
    texts = [b"good %d" % number for number in range(3)]
    late = [b"hang %d" % number for number in range(3)]
    store = s3_store(weed)
    async with OddWorker() as worker:
        extra = LEASE | {"FORGE_VECTOR_WORKER_URL": worker.url, "FORGE_VECTOR_WORKER_CONCURRENCY": "2"}
        node = await start_node(extra=s3_environ(weed, prefix=prefix) | extra | {"FORGE_ARCHIVE_SEAL_S": "0.1"})
        async with node.http() as http:
            await _embedded(http, texts)
            for content in [*late, GOOD]:
                await _accepted(http, content)
                await _stored(store, prefix, content)
            await until(lambda: _processing(http, 2), "two are being processed")
            await _archived(http)
        await kill(node.pid)
        shutil.rmtree(node.data)
        shutil.rmtree(node.cache)
        await store.delete(f"{prefix}/{payload_key(cid_of(GOOD))}")  # the one whose bytes are lost everywhere
        worker.mended = True

        restored = await node.cli("restore", "--json")
        assert restored.code == 0, restored.err
        await node.start()

        async with node.http() as http:
            await until(lambda: _reads(http, [*texts, *late]), "what was restored, and what waited, is embedded")
            await until(lambda: _jobs(http, "awaiting_payload"), "the job without bytes waits for them")
            assert not await _reads(http, [GOOD])
            await _embedded(http, [GOOD])
            assert await _attempts(http, 7) == [0] * 7
        assert len(await _digests(node)) == 2
    await store.close()


async def test_who_loses_the_lease_hands_the_queue_over_and_takes_nothing_back(
    start_node: StartNode, weed: Weed, prefix: str
) -> None:
    """G17, G18, PR3: the one who takes over has queue, embeddings and bytes; the other reads on, and writes nothing."""
    done, late = [b"good %d" % number for number in range(2)], [b"hang %d" % number for number in range(3)]
    async with OddWorker() as worker:
        common = s3_environ(weed, prefix=prefix) | LEASE | {"FORGE_VECTOR_WORKER_URL": worker.url}
        common |= {"FORGE_ARCHIVE_SEAL_S": "0.1", "FORGE_STANDBY_POLL_S": "0.2", "FORGE_VECTOR_WORKER_CONCURRENCY": "2"}
        first = await start_node(extra=common | {"FORGE_NODE_ID": "first"})
        async with first.http() as http:
            await _embedded(http, done)
            for content in late:
                await _accepted(http, content)
            await until(lambda: _processing(http, 2), "two are being processed")
            await _archived(http)
        second = await start_node(extra=common | {"FORGE_NODE_ID": "second"}, until_ready=False)
        await second.serving()
        async with second.http() as http:
            await until(lambda: _reads(http, done), "the standby reads what is archived")
            assert await _not_the_writer(http)

            os.kill(first.pid, signal.SIGSTOP)
            worker.mended = True
            await _accepted(http, GOOD)
            await until(lambda: _reads(http, [*done, *late, GOOD]), "the second node embeds what the first had begun")
            assert await _attempts(http, 6) == [0] * 6
            await _archived(http)
        os.kill(first.pid, signal.SIGCONT)
        async with first.http() as http:
            await until(lambda: _not_the_writer(http), "the first node refuses to write")
            await until(lambda: _reads(http, [*done, *late, GOOD]), "and reads what the second wrote")
        await until(lambda: _equal(first, second), "both hold the same at the same position")


async def _processing(http: httpx2.AsyncClient, wanted: int) -> bool:
    return len(await _jobs(http, "processing")) == wanted


async def _reads(http: httpx2.AsyncClient, contents: list[bytes]) -> bool:
    """Say whether a node, which may be changing its role, has the vectors of all these files."""
    asked = {"kind": "text", "hashes": [cid_of(content) for content in contents]}
    try:
        answer = await http.post("/api/v1/lookup", json=asked)
    except httpx2.TransportError:
        return False
    return answer.status_code == 200 and set(answer.json()["status"].values()) == {"present"}


async def _accepted(http: httpx2.AsyncClient, content: bytes) -> None:
    """Upload a file until it is taken: the node may be changing its role."""

    async def taken() -> bool:
        return (await upload(http, content)).status_code == 202

    await until(taken, f"{content!r} is accepted")


async def _embedded(http: httpx2.AsyncClient, contents: list[bytes]) -> None:
    for content in contents:
        await _accepted(http, content)
    await until(lambda: _reads(http, contents), "all are embedded")


async def _jobs(http: httpx2.AsyncClient, status: str) -> list[dict[str, Any]]:
    """Return the jobs of one status, none while the node cannot tell."""
    answer = await http.get("/api/v1/jobs", params={"status": status})
    return list(answer.json()["jobs"]) if answer.status_code == 200 else []


async def _attempts(http: httpx2.AsyncClient, count: int) -> list[int]:
    """Return the attempts of each done job once there are `count`: an embedding is there before its job is done."""

    async def all_done() -> bool:
        return len(await _jobs(http, "done")) >= count

    await until(all_done, f"{count} jobs are done")
    return [job["attempts"] for job in await _jobs(http, "done")]


async def _not_the_writer(http: httpx2.AsyncClient) -> bool:
    try:
        answer = await upload(http, b"good for nobody")
    except httpx2.TransportError:
        return False
    return (answer.status_code, answer.json()["type"]) == (503, "urn:forge:problem:not-the-writer")


async def _equal(first: NodeProcess, second: NodeProcess) -> bool:
    return await _digests(first) == await _digests(second)


async def _digests(node: NodeProcess) -> list[tuple[str, str, str]]:
    """Return position and digest of both databases, each equal to its log."""
    said = await node.cli("rebuild", "--verify", "--json", "vector/queue", "vector/embeddings")
    assert said.code == 0, said.err + said.out
    return [(one["projection"], one["position"], one["digest"]) for one in json.loads(said.out)]


async def test_an_ingest_elsewhere_hydrates_its_copy_from_the_object_store(
    start_node: StartNode, weed: Weed, prefix: str, tmp_path: Path
) -> None:
    """G29, G31: fetched, then brought on, told with position and age; and without the store the ingest goes on."""
    environ = s3_environ(weed, prefix=prefix)
    node = await start_node(extra=environ | {"FORGE_ARCHIVE_SEAL_S": "0.1"})
    client = NodeProcess(tmp_path, extra=environ | {"FORGE_URL": node.url, "FORGE_TOKEN": node.token})
    folder = tmp_path / "texts"
    folder.mkdir()

    async def ingested(*names: str, **more: str) -> tuple[dict[str, Any], str]:
        for name in names:
            (folder / name).write_text(f"the text of {name}")
        client.environ |= more
        done = await client.cli("vector", "ingest", "--kind", "text", "--root", str(folder), "--json")
        assert done.code == 0, done.err
        return json.loads(done.out), done.err

    async with node.http() as http:
        for name in ("a", "b"):
            assert (await upload(http, b"the text of " + name.encode())).status_code == 202
        await present(http, b"the text of a", b"the text of b")
        await _archived(http)

        fetched, _ = await ingested("a", "b")
        uploaded, said = await ingested("c")
        await present(http, b"the text of c")
        await _archived(http)
        caught_up, _ = await ingested()
        away, warned = await ingested(FORGE_S3_ENDPOINT_URL="http://127.0.0.1:9")

    assert (fetched["local_copy"]["state"], fetched["present_locally"]) == ("fetched", 2)
    assert (uploaded["local_copy"]["state"], uploaded["uploaded"]) == ("current", 1)
    assert "local copy: current, at 1." in said
    assert (caught_up["local_copy"]["state"], caught_up["present_locally"]) == ("caught up", 3)
    assert (away["local_copy"]["state"], away["present_locally"]) == ("stale", 3)
    assert "using existing local hydrated DB" in warned


async def _archived(http: httpx2.AsyncClient) -> None:
    """Wait until the node has archived everything."""

    async def all_of_it() -> bool:
        said = await http.get("/api/v1/replicate/status")
        return said.is_success and all(one["lag_records"] == 0 for one in said.json()["partitions"])

    await until(all_of_it, "everything is archived")


async def _stored(store: S3Store, prefix: str, content: bytes) -> None:
    """Wait until the archive has the bytes of a file."""

    async def there() -> Any:
        return await store.size(f"{prefix}/{payload_key(cid_of(content))}")

    await until(there, "the payload is archived")
