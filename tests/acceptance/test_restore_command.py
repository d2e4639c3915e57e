"""`forge restore` as a person meets it: documents of the past, and what is said when something is not there."""

import asyncio
import json
import os
import random
import shutil
import time
from contextlib import closing
from pathlib import Path

import apsw

from forge.stack.weed import Weed
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.faults.killer import fresh_seed
from tests.s3_stores import s3_environ

WAIT_S = 60.0


async def test_one_document_of_the_past_comes_back_without_a_node(
    start_node: StartNode, weed: Weed, tmp_path: Path
) -> None:
    """PR4: at a position, at a time, and as it is last archived; beside a running node and without any."""
    prefix = f"past-{random.Random(fresh_seed()).randrange(1 << 30)}"
    node = await start_node(extra=s3_environ(weed, prefix=prefix) | {"FORGE_ARCHIVE_SEAL_S": "0.1"})
    async with node.http() as http:
        assert (await http.post("/api/v1/db", json={"db_id": "Notes"})).status_code == 201
        for n, sql in enumerate(["CREATE TABLE t (n)", *(f"INSERT INTO t VALUES ({n})" for n in range(4))]):
            assert (await http.post("/api/v1/db/Notes/query/exec", json={"sql": sql})).status_code == 200
            if n == 2:
                middle = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1))
                await asyncio.sleep(1.1)  # moments are told in whole seconds
    await _archived(node, "doc/Notes", "1.5")

    assert await _rows(node, tmp_path / "at.db", "--at", "1.4") == [0, 1, 2]
    assert await _rows(node, tmp_path / "then.db", "--at", middle) == [0, 1]
    assert await node.stop() == 0
    await asyncio.to_thread(shutil.rmtree, node.data)
    assert await _rows(node, tmp_path / "last.db") == [0, 1, 2, 3]
    assert not node.data.exists()
    vectors = await node.cli("restore", "vector/queue", "--to", str(tmp_path / "queue.db"))
    assert (vectors.code, "nothing of vector/0 is archived" in vectors.err) == (3, True)


async def _rows(node: NodeProcess, target: Path, *at: str) -> list[int]:
    made = await node.cli("restore", "Notes", *at, "--to", str(target), "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["path"] == str(target)
    with closing(apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        assert db.pragma("journal_mode") == "delete"
        return [int(str(row[0])) for row in db.execute("SELECT n FROM t ORDER BY n")]


async def test_a_drill_is_green_and_remembered(start_node: StartNode, weed: Weed) -> None:
    """PR4: by the command beside the node, and by the node itself; told by the status and by metrics."""
    prefix = f"drill-{random.Random(fresh_seed()).randrange(1 << 30)}"
    node = await start_node(extra=s3_environ(weed, prefix=prefix) | {"FORGE_ARCHIVE_SEAL_S": "0.1"})
    async with node.http() as http:
        assert (await http.post("/api/v1/db", json={"db_id": "d"})).status_code == 201
        assert (await http.post("/api/v1/db/d/query/exec", json={"sql": "CREATE TABLE t (n)"})).status_code == 200
    assert (await node.cli("replicate", "generation", "d")).code == 0

    drilled = await node.cli("replicate", "drill", "--json")

    assert drilled.code == 0, drilled.err
    results = {one["projection"]: one for one in json.loads(drilled.out)}
    assert {(one["green"], one["compared_with"]) for one in results.values()} == {(True, "node")}
    assert results["doc/d"]["generation"] == "1.1"
    assert "control" in results
    status = json.loads((await node.cli("replicate", "status", "--json")).out)
    assert {part["partition"] for part in status["partitions"] if part["drills"]} >= {"control", "doc/d"}
    assert await node.stop() == 0
    node.environ["FORGE_DRILL_EVERY_S"] = "0.5"
    await node.start()
    async with node.http() as http, asyncio.timeout(WAIT_S):
        text = ""
        while 'forge_replicate_drills_total{result="green"}' not in text:
            await asyncio.sleep(0.2)
            text = (await http.get("/metrics")).text
    assert "forge_replicate_drill_red 0.0" in text


async def test_what_cannot_be_restored_is_said_before_anything_changes(
    start_node: StartNode, weed: Weed, tmp_path: Path
) -> None:
    """Nothing there, a wrong prefix, wrong keys, a time before history, a target that exists, a node that runs."""
    prefix = f"said-{random.Random(fresh_seed()).randrange(1 << 30)}"
    node = await start_node(extra=s3_environ(weed, prefix=f"{prefix}/right") | {"FORGE_ARCHIVE_SEAL_S": "0.1"})
    async with node.http() as http:
        assert (await http.post("/api/v1/db", json={"db_id": "d"})).status_code == 201
        assert (await http.post("/api/v1/db/d/query/exec", json={"sql": "CREATE TABLE t (n)"})).status_code == 200
    await _archived(node, "doc/d", "1.1")
    target = tmp_path / "d.db"

    busy = await node.cli("restore")
    assert (busy.code, "is in use by process" in busy.err) == (5, True)
    assert (await node.cli("restore", "d", "--to", str(target))).code == 0
    before = target.read_bytes()
    assert "exists already" in (await node.cli("restore", "d", "--to", str(target))).err
    assert target.read_bytes() == before
    early = await node.cli("restore", "d", "--at", "2020-01-01 08:30", "--to", str(tmp_path / "early.db"))
    assert (early.code, "before the archived history" in early.err) == (3, True)
    beyond = await node.cli("restore", "d", "--at", "1.7", "--to", str(tmp_path / "beyond.db"))
    assert (beyond.code, "ends at 1.1" in beyond.err) == (3, True)
    assert (await node.cli("restore", "d")).code == 2
    other = await node.cli("restore", "e", "--to", str(tmp_path / "e.db"))
    assert (other.code, "nothing of doc/e is archived" in other.err) == (3, True)
    assert [name for name in os.listdir(tmp_path) if ".db" in name] == ["d.db"]
    assert await node.stop() == 0
    await asyncio.to_thread(shutil.rmtree, node.data)

    right = dict(node.environ)
    node.environ["FORGE_S3_PREFIX"] = f"{prefix}/wrong"
    wrong = await node.cli("restore")
    assert (wrong.code, f"beside it is: {prefix}/right" in wrong.err) == (3, True)
    node.environ |= {"FORGE_S3_PREFIX": right["FORGE_S3_PREFIX"], "FORGE_S3_SECRET_ACCESS_KEY": "wrong"}
    denied = await node.cli("restore")
    assert (denied.code, "SignatureDoesNotMatch" in denied.err) == (4, True)
    node.environ |= right | {"FORGE_S3_BUCKET": ""}
    assert (await node.cli("restore")).code == 2
    assert "Traceback" not in wrong.err + denied.err + early.err
    assert not (node.data / "docs").exists()


async def _archived(node: NodeProcess, partition: str, position: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            said = await node.cli("replicate", "status", "--json")
            found = {one["partition"]: one["archived"] for one in json.loads(said.out)["partitions"]}
            if found.get(partition) == position:
                return
            await asyncio.sleep(0.1)
