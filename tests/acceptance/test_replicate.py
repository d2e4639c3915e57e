"""A node that archives, as a user sees it: killed again and again, its object store away, its log purged."""

import asyncio
import json
import random
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from events.archive import Archive
from events.log import Log
from forge.log_access import log_access
from forge.stack.weed import Weed
from projectors.document.domain import document_partition
from schemas.ids import PartitionId
from tests.acceptance.archived import caught_up
from tests.acceptance.conftest import StartNode
from tests.acceptance.document_writers import DB, DocumentWriters
from tests.acceptance.node_process import NodeProcess
from tests.archives import assert_equal
from tests.faults.killer import fresh_seed, kill
from tests.faults.nats_server import NatsServer
from tests.faults.s3_proxy import S3Proxy
from tests.s3_stores import s3_environ

KILLS, KILLS_LONG = 4, 40
LONG_TIMEOUT_S = 3600
ANSWERS_BETWEEN = 60
WAIT_S = 120.0
LONG_LEASE = {"FORGE_LEASE_DURATION_S": "600"}  # which does not run out while the store is away


@pytest.mark.parametrize(
    "kills", [KILLS, pytest.param(KILLS_LONG, marks=[pytest.mark.long, pytest.mark.timeout(LONG_TIMEOUT_S)])]
)
async def test_killing_the_node_leaves_no_gap_and_no_repetition(start_node: StartNode, weed: Weed, kills: int) -> None:
    """PR1, PR4, PR5: then the log is purged, and everything is still there: rebuild, time travel, the change feed."""
    rng = random.Random(fresh_seed())
    extra = s3_environ(weed, prefix=f"kills-{rng.randrange(1 << 30)}") | {"FORGE_ARCHIVE_SEAL_S": "0.1"}
    node = await start_node(extra=extra)
    writers = DocumentWriters(node, rng.randrange(1 << 30))
    await writers.prepare()
    async with writers.running():
        for _ in range(kills):
            await writers.answered(ANSWERS_BETWEEN)
            await asyncio.sleep(rng.uniform(0, 0.3))  # the moment of the kill
            await kill(node.pid)
            await node.start()
        await writers.answered(ANSWERS_BETWEEN)
    await caught_up(node)
    at_three = await _marks(node, at="1.3")
    assert await node.stop() == 0

    await _assert_archived(node)
    await _purge(node, document_partition(DB))
    await _prove(node, at_three)


async def _prove(node: NodeProcess, at_three: list[list[object]]) -> None:
    """Fail unless a node whose log holds only the newest record of the document knows all of its history."""
    verified = await node.cli("rebuild", "--verify", "--json")
    assert verified.code == 0, verified.err
    shutil.rmtree(node.data / "docs")
    rebuilt = await node.cli("rebuild", "--json")
    assert rebuilt.code == 0, rebuilt.err
    assert _digests(rebuilt.out) == _digests(verified.out)
    assert (await node.cli("log", "verify")).code == 0
    shutil.rmtree(node.cache / "past")
    await node.start()
    assert await _marks(node, at="1.3") == at_three
    async with node.http() as http:
        changes = await http.get(f"/api/v1/db/{DB}/changes", params={"after": "0", "limit": 5})
        assert changes.status_code == 200, changes.text
    assert (await node.cli("replicate", "status")).code == 0


def _digests(printed: str) -> dict[str, str]:
    return {one["projection"]: one["digest"] for one in json.loads(printed)}


async def test_a_store_that_is_away_is_told_and_nothing_is_refused(start_node: StartNode, weed: Weed) -> None:
    """PR1, PR7: writes go on, /readyz and the metrics tell, and the archive catches up."""
    parts = urlsplit(weed.s3_url)
    assert parts.hostname
    assert parts.port
    async with S3Proxy(parts.hostname, parts.port, random.Random(1)) as proxy:
        prefix = f"away-{random.Random(fresh_seed()).randrange(1 << 30)}"
        environ = s3_environ(weed, port=proxy.port, prefix=prefix) | LONG_LEASE
        node = await start_node(
            extra=environ | {"FORGE_ARCHIVE_READY_LAG_S": "1", "FORGE_ARCHIVE_SEAL_S": "0.1"} | LONG_LEASE
        )
        async with node.http() as http:
            assert (await http.post("/api/v1/db", json={"db_id": "d"})).status_code == 201
            await caught_up(node)
            await proxy.refuse()
            await proxy.drop_connections()
            sent = {"sql": "CREATE TABLE t (a)"}
            assert (await http.post("/api/v1/db/d/query/exec", json=sent)).status_code == 200

            async with asyncio.timeout(WAIT_S):
                status, check = await _archive_check(http)
                while status == 200 or "S3 does not answer" not in check["value"]:
                    await asyncio.sleep(0.1)
                    status, check = await _archive_check(http)
            assert not check["ok"]
            assert not check["data_at_risk"]
            assert (await http.post("/api/v1/db/d/query/exec", json={"sql": "INSERT INTO t VALUES (1)"})).is_success
            metrics = (await http.get("/metrics")).text
            assert "forge_archive_lag_records" in metrics
            said = await node.cli("replicate", "status")
            assert "unknown  some generations and drills: " in said.out, said.err
            assert said.code in (0, 6), said.err  # the archiver may know by itself; nothing is damaged

            proxy.accept()
            await caught_up(node)
            await node.ready()
        assert await node.stop() == 0
    await _assert_archived(node, s3_environ(weed, prefix=prefix))


async def _archive_check(http: httpx2.AsyncClient) -> tuple[int, dict[str, Any]]:
    """Ask whether the node is ready; return the status, and what it says of the archive."""
    answer = await http.get("/readyz")
    (check,) = [check for check in answer.json()["checks"] if check["name"] == "archive"]
    return answer.status_code, check


async def test_status_tells_of_a_node_without_an_archive(start_node: StartNode) -> None:
    """PR8: and it is none the worse."""
    node = await start_node()

    said = await node.cli("replicate", "status")

    assert said.code == 0
    assert "no archive" in said.out


async def _marks(node: NodeProcess, at: str) -> list[list[object]]:
    async with node.http() as http:
        sent = {"sql": "SELECT key, children FROM marker ORDER BY key"}
        answer = await http.post(f"/api/v1/db/{DB}/query/exec", json=sent, params={"at": at})
        assert answer.status_code == 200, answer.text
        rows: list[list[object]] = answer.json()["rows"]
        return rows


async def _assert_archived(node: NodeProcess, environ: dict[str, str] | None = None) -> None:
    """Fail unless the segments of every partition are exactly its log."""
    settings = node.settings.load(node.environ | (environ or {}))
    async with log_access(settings, exclusive=True) as access:
        archive = access.log.reader.archive
        assert isinstance(archive, Archive)
        for partition in await access.partitions():
            await assert_equal(archive, access.log.reader, partition)


async def _purge(node: NodeProcess, partition: PartitionId) -> None:
    """Remove all but the newest record of a partition from the log of a node that does not run."""
    home = Path(node.home) / "purge"
    home.mkdir()
    async with NatsServer(home, node.data / "nats", sync_always=True) as server:
        event_log = Log(server.url, "")
        jetstream = await event_log.admin.jetstream()
        assert await jetstream.purge_stream("FORGE_DOCS", subject=partition.subject, keep=1)
        await event_log.close()
