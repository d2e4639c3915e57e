"""`forge restore` and `forge replicate drill` as a person meets them, beside a node and when it is gone."""

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
from tests.acceptance.archived import caught_up
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.faults.killer import fresh_seed
from tests.s3_stores import s3_environ

WAIT_S = 60.0


async def test_what_is_archived_is_drilled_brought_back_and_refused_in_clear_words(
    start_node: StartNode, weed: Weed, tmp_path: Path
) -> None:
    """PR4: a document of the past beside a node and without any, and what is said before anything changes."""
    prefix = f"restore-{random.Random(fresh_seed()).randrange(1 << 30)}"
    environ = s3_environ(weed, prefix=f"{prefix}/right") | {"FORGE_ARCHIVE_SEAL_S": "0.1", "FORGE_DRILL_EVERY_S": "3"}
    node = await start_node(extra=environ)
    middle = await _write(node)

    await _assert_drilled(node)
    assert await _rows(node, tmp_path / "then.db", "--at", middle) == [0, 1]
    busy = await node.cli("restore")
    assert (busy.code, "is in use by process" in busy.err) == (5, True)
    await _assert_drills_itself(node)
    assert await node.stop() == 0
    await asyncio.to_thread(shutil.rmtree, node.data)
    assert await _rows(node, tmp_path / "last.db") == [0, 1, 2, 3]
    assert not os.path.exists(node.data)  # noqa: ASYNC240 - one stat
    await _assert_refused(node, prefix)


async def _write(node: NodeProcess) -> str:
    """Write five records into a document; return a moment after the third of them."""
    middle = ""
    async with node.http() as http:
        assert (await http.post("/api/v1/db", json={"db_id": "Notes"})).status_code == 201
        for n, sql in enumerate(["CREATE TABLE t (n)", *(f"INSERT INTO t VALUES ({n})" for n in range(4))]):
            assert (await http.post("/api/v1/db/Notes/query/exec", json={"sql": sql})).status_code == 200
            if n == 2:
                middle = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1))
                await asyncio.sleep(1.1)  # moments are told in whole seconds
    return middle


async def _assert_drilled(node: NodeProcess) -> None:
    """Fail unless a drill by the command is green, and the status of the node tells so."""
    await caught_up(node)
    drilled = await node.cli("replicate", "drill", "--json")
    assert drilled.code == 0, drilled.err
    results = {one["projection"]: one for one in json.loads(drilled.out)}
    assert {(one["green"], one["compared_with"]) for one in results.values()} == {(True, "node")}
    assert {"control", "doc/Notes"} <= results.keys()
    async with node.http() as http:
        status = (await http.get("/api/v1/replicate/status")).json()
    assert {part["partition"] for part in status["partitions"] if part["drills"]} >= {"control", "doc/Notes"}


async def _assert_drills_itself(node: NodeProcess) -> None:
    async with node.http() as http, asyncio.timeout(WAIT_S):
        text = ""
        while 'forge_replicate_drills_total{result="green"}' not in text:
            await asyncio.sleep(0.2)
            text = (await http.get("/metrics")).text
    assert "forge_replicate_drill_red 0.0" in text


async def _rows(node: NodeProcess, target: Path, *at: str) -> list[int]:
    made = await node.cli("restore", "Notes", *at, "--to", str(target), "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["path"] == str(target)
    with closing(apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        assert db.pragma("journal_mode") == "delete"
        return [int(str(row[0])) for row in db.execute("SELECT n FROM t ORDER BY n")]


async def _assert_refused(node: NodeProcess, prefix: str) -> None:
    """A wrong prefix names the right one; wrong keys are said before anything is made."""
    right = dict(node.environ)
    node.environ["FORGE_S3_PREFIX"] = f"{prefix}/wrong"
    wrong = await node.cli("restore")
    assert (wrong.code, f"beside it is: {prefix}/right" in wrong.err) == (3, True)
    nothing = await node.cli("replicate", "drill")
    assert (nothing.code, "nothing is archived" in nothing.err) == (3, True), nothing.out
    node.environ |= {"FORGE_S3_PREFIX": right["FORGE_S3_PREFIX"], "FORGE_S3_SECRET_ACCESS_KEY": "wrong"}
    denied = await node.cli("restore")
    assert (denied.code, "SignatureDoesNotMatch" in denied.err) == (4, True)
    assert "Traceback" not in wrong.err + denied.err
    assert not os.path.exists(node.data / "docs")  # noqa: ASYNC240 - one stat


async def test_a_log_that_was_lost_alone_is_brought_back_in_an_epoch_of_its_own(
    start_node: StartNode, weed: Weed, tmp_path: Path
) -> None:
    """PR3, PR4: the place still has its lease, but positions that were not archived must not be given out again."""
    prefix = f"restore-{random.Random(fresh_seed()).randrange(1 << 30)}"
    node = await start_node(extra=s3_environ(weed, prefix=prefix) | {"FORGE_ARCHIVE_SEAL_S": "0.1"})
    await _write(node)
    assert await node.stop() == 0
    await asyncio.to_thread(shutil.rmtree, node.data / "nats")

    refused = await node.cli("up", "--listen", "127.0.0.1:0")
    assert (refused.code, "run `forge restore`" in refused.err) == (1, True), refused.err
    assert (await node.cli("restore")).code == 0
    await node.start()

    async with node.http() as http:
        more = await http.post("/api/v1/db/Notes/query/exec", json={"sql": "INSERT INTO t VALUES (4)"})
    assert (more.status_code, more.headers.get("forge-position")) == (200, "2.6"), more.text
    await caught_up(node)
    assert await _rows(node, tmp_path / "all.db") == [0, 1, 2, 3, 4]
