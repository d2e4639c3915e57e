"""A node that lets its log go as it is archived, killed meanwhile: nothing that anybody asks for is missed."""

import asyncio
import json
import random
import shutil

from events.read import message_position, messages_from
from forge.log_access import log_access
from forge.stack.weed import Weed
from projectors.document.domain import document_partition
from tests.acceptance.conftest import StartNode
from tests.acceptance.document_writers import DB, DocumentWriters
from tests.acceptance.node_process import NodeProcess
from tests.faults.killer import fresh_seed, kill
from tests.s3_stores import s3_environ

KILLS = 2
ANSWERS_BETWEEN = 40
WAIT_S = 120.0
EAGER = {
    "FORGE_ARCHIVE_SEAL_S": "0.1",
    "FORGE_GENERATION_RECORDS": "10",
    "FORGE_GENERATION_EVERY_S": "0.1",
    "FORGE_GENERATION_VERIFY": "1",
    "FORGE_LOG_RETENTION_EVERY_S": "0.1",
    "FORGE_LOG_RETENTION_RECORDS": "1",
    "FORGE_LOG_RETENTION_S": "0",
    "FORGE_REPLICA_HEARTBEAT_S": "0.1",
    "FORGE_REPLICA_TTL_S": "1",
}


async def test_what_leaves_the_log_is_missed_by_nobody(start_node: StartNode, weed: Weed) -> None:
    """K4.2, K4.4, PR1, PR4: rebuild, time travel, the change feed, and a replica that was away all the time."""
    rng = random.Random(fresh_seed())
    node = await start_node(extra=s3_environ(weed, prefix=f"retention-{rng.randrange(1 << 30)}") | EAGER)
    copy = node.home / "copy.db"
    writers = DocumentWriters(node, rng.randrange(1 << 30))
    await writers.prepare()
    assert (await node.cli("replica", DB, str(copy), "--once")).code == 0
    async with writers.running():
        for _ in range(KILLS):
            await writers.answered(ANSWERS_BETWEEN)
            await _purged(node)
            await asyncio.sleep(rng.uniform(0, 0.2))  # the moment of the kill
            await kill(node.pid)
            await node.start()
        await writers.answered(ANSWERS_BETWEEN)
        await _purged(node)
    at_three = await _marks(node, "1.3")
    followed = await node.cli("replica", DB, str(copy), "--once", "--no-reseed", "--json")
    assert followed.code == 0, followed.err
    assert (await node.cli("replica", DB, str(copy), "--verify")).code == 0
    (replica,) = json.loads((await node.cli("replica", "list", "--json")).out)["replicas"]
    assert replica["lag_records"] == 0
    assert (await node.cli("replicate", "status")).code == 0
    assert await node.stop() == 0

    assert await _first(node) > 3
    verified = await node.cli("rebuild", "--verify")
    assert verified.code == 0, verified.err
    assert (await node.cli("log", "verify")).code == 0
    shutil.rmtree(node.data / "docs")
    shutil.rmtree(node.cache / "past")
    await node.start()
    assert await _marks(node, "1.3") == at_three
    keys = {str(row[0]) for row in await _marks(node, "")}
    assert keys >= writers.answers.keys()


async def _purged(node: NodeProcess) -> None:
    """Wait until the running node has let something go."""
    async with asyncio.timeout(WAIT_S), node.http() as http:
        while True:
            metrics = (await http.get("/metrics")).text
            (line,) = [one for one in metrics.splitlines() if one.startswith("forge_log_purged_records_total ")]
            if float(line.split()[1]) > 0:
                return
            await asyncio.sleep(0.1)


async def _marks(node: NodeProcess, at: str) -> list[list[object]]:
    async with node.http() as http:
        sent = {"sql": "SELECT key, children FROM marker ORDER BY key"}
        answer = await http.post(f"/api/v1/db/{DB}/query/exec", json=sent, params={"at": at} if at else {})
        assert answer.status_code == 200, answer.text
        rows: list[list[object]] = answer.json()["rows"]
        return rows


async def _first(node: NodeProcess) -> int:
    """Return the first record of the document that the server of a node that does not run still has."""
    async with log_access(node.settings.load(node.environ), exclusive=True) as access:
        (first,) = await messages_from(access.log.reader, document_partition(DB), 1, 1)
        return message_position(first).index
