"""A node whose archive keeps a day, on a real object store: pruning that is killed, and all who read after it."""

import asyncio
import json
import os
import random
import shutil
import signal
import sys
from typing import Any

import pytest

from forge.stack.weed import Weed
from schemas.ids import Position
from schemas.instants import later, now
from tests.acceptance import pruning_process
from tests.acceptance.archived import caught_up
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import Finished, NodeProcess, users_of
from tests.faults.killer import fresh_seed
from tests.s3_stores import s3_environ
from tests.waiting import until
from workers.generations.window import DAY_S

DB = "notes"
PART = 12  # records between two moments, in segments of their own
TIMEOUT_S = 1800
WAIT_S = 120.0
EAGER = {
    "FORGE_ARCHIVE_SEAL_S": "0.1",
    "FORGE_ARCHIVE_KEEP_DAYS": "1",
    "FORGE_GENERATION_KEEP": "1000",
    "FORGE_GENERATION_RECORDS": "5",
    "FORGE_GENERATION_EVERY_S": "0.1",
    "FORGE_GENERATION_VERIFY": "1",
    "FORGE_LOG_RETENTION_EVERY_S": "0.2",
    "FORGE_LOG_RETENTION_RECORDS": "1",
    "FORGE_LOG_RETENTION_S": "0",
    "FORGE_REPLICA_TTL_S": "1",
    "FORGE_LEASE_DURATION_S": "3",
    "FORGE_LEASE_RENEW_S": "1",
    "FORGE_LEASE_MARGIN_S": "0.5",
}


@pytest.mark.timeout(TIMEOUT_S)
async def test_a_pruned_history_serves_everybody_who_reads(start_node: StartNode, weed: Weed) -> None:
    """G26, PR1, PR4, K3.5, K4.2: killed at any removal; after each, and after another machine took over."""
    rng = random.Random(fresh_seed())
    node = await start_node(extra=s3_environ(weed, prefix=f"pruned-{rng.randrange(1 << 30)}") | EAGER)
    async with node.http() as http:
        assert (await http.post("/api/v1/db", json={"db_id": DB})).status_code == 201
    await _sql(node, "CREATE TABLE t (n INTEGER PRIMARY KEY)")
    copy = node.home / "copy.db"
    assert (await node.cli("replica", DB, str(copy), "--once")).code == 0
    seen = await _write(node, 0) | await _write(node, PART)
    first = await _generation(node)
    since = now()
    seen |= await _write(node, 2 * PART)

    await _pruned(node, since, rng)

    for position in [first, *rng.sample([one for one in seen if one > first], 3)]:
        assert await _count(node, position) == seen[position]
    await _assert_refused(node, first)
    await _assert_followed(node, copy.name)
    digest = await _verified(node)
    await _assert_rebuilt(node, digest)
    await _lost_and_restored(node)
    assert await _count(node, None) == 3 * PART
    seen |= await _write(node, 3 * PART)
    second = await _generation(node)
    assert second.epoch > first.epoch
    since = now()
    seen |= await _write(node, 4 * PART)
    await _pruned(node, since, rng)
    assert await _count(node, second) == seen[second]
    await _assert_refused(node, second)
    digest = await _verified(node)
    await _lost_and_restored(node)
    assert await _count(node, second) == seen[second]
    assert await _count(node, None) == 5 * PART
    assert await _verified(node) == digest


async def _sql(node: NodeProcess, sql: str) -> Position:
    async with node.http() as http:
        answer = await http.post(f"/api/v1/db/{DB}/query/exec", json={"sql": sql})
    assert answer.status_code == 200, answer.text
    return Position.parse(answer.headers["forge-position"])


async def _write(node: NodeProcess, after: int) -> dict[Position, int]:
    """Write records; return how many rows there are at each position."""
    written = {await _sql(node, f"INSERT INTO t VALUES ({n})"): n + 1 for n in range(after, after + PART)}
    await caught_up(node)
    return written


async def _generation(node: NodeProcess) -> Position:
    """Make generations of what is there; return where the document's stands."""
    made = await node.cli("replicate", "generation", DB, "--json")
    assert made.code == 0, made.err
    (found,) = json.loads(made.out)
    return Position.parse(found["position"])


async def _pruned(node: NodeProcess, since: str, rng: random.Random) -> None:
    """Prune what is older than a moment, killed some times on the way; each time a restore elsewhere is whole."""
    for removals in (0, 1, rng.randint(2, 4)):
        await _prune(node, since, removals)
        restored = node.home / f"restored-{rng.randrange(1 << 30)}.db"
        made = await node.cli("restore", DB, "--to", str(restored))
        assert made.code == 0, made.err
    assert await _prune(node, since, -1) == 0
    assert await _prune(node, since, -1) == 0


async def _prune(node: NodeProcess, since: str, removals: int) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        pruning_process.__name__,
        later(since, DAY_S),
        str(removals),
        env=dict(node.environ) | {"PYTHONPATH": os.getcwd()},
        stdout=-1,
        stderr=-1,
    )
    out, err = await process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), err.decode()
    assert b"history not pruned" not in out + err, (out + err).decode()
    return process.returncode


async def _ask(node: NodeProcess, at: str | None) -> Any:
    sent = {"sql": "SELECT count(*) FROM t"}
    async with node.http() as http:
        return await http.post(f"/api/v1/db/{DB}/query/exec", json=sent, params={"at": at} if at else {})


async def _count(node: NodeProcess, at: Position | None) -> int:
    answer = await _ask(node, str(at) if at else None)
    assert answer.status_code == 200, answer.text
    (((count,),),) = (answer.json()["rows"],)
    return int(count)


async def _assert_refused(node: NodeProcess, first: Position) -> None:
    """Fail unless what is not kept is refused, and what can be read is named, when the log has let go of it, too."""
    await _let_go(node)
    for at in ("1.3", "2020-01-01"):
        answer = await _ask(node, at)
        assert answer.status_code == 410, answer.text
        assert f"from {first} on" in answer.json()["detail"]
    async with node.http() as http:
        for path, query in (("changes", {"after": "0"}), ("wal", {"after": "1.0"})):
            answer = await http.get(f"/api/v1/db/{DB}/{path}", params=query)
            assert answer.status_code == 410, answer.text
            floor = Position.parse(answer.headers["forge-floor"])
            assert 1 < floor.index <= first.index
            page = await http.get(f"/api/v1/db/{DB}/{path}", params={"after": answer.headers["forge-floor"]})
            assert page.status_code == 200, page.text
    assert (await node.cli("db", "log", DB)).code == 0
    past = await node.cli("restore", DB, "--at", "1.3", "--to", "then.db")
    assert (past.code, "begins with" in past.err) == (3, True), past.err
    drilled = await node.cli("replicate", "drill", "--json")
    assert drilled.code == 0, drilled.err + drilled.out


async def _let_go(node: NodeProcess) -> None:
    """Wait until the server's log does not hold the first records either."""
    async with asyncio.timeout(WAIT_S), node.http() as http:
        while True:
            answer = await http.get(f"/api/v1/db/{DB}/wal", params={"after": f"1.{PART}"})
            if answer.status_code == 410:
                return
            await asyncio.sleep(0.1)


async def _assert_followed(node: NodeProcess, copy: str) -> None:
    """Fail unless a replica that is behind the beginning takes a new copy, and a clone of now is made."""
    refused = await node.cli("replica", DB, copy, "--once", "--no-reseed")
    assert refused.code == 5, refused.err
    assert (await node.cli("replica", DB, copy, "--once")).code == 0
    assert (await node.cli("replica", DB, copy, "--verify")).code == 0
    async with node.http() as http:
        cloned = await http.post(f"/api/v1/db/{DB}/clone", json={"db_id": "clone"})
        assert cloned.status_code == 201, cloned.text
    await caught_up(node)


async def _verified(node: NodeProcess) -> str:
    """Fail unless everything is what its history says; return the digest of the document."""
    verified = await node.cli("rebuild", "--verify", "--json")
    assert verified.code == 0, verified.err
    results = {one["projection"]: one for one in json.loads(verified.out)}
    assert {one["result"] for one in results.values()} <= {"equal", "absent"}
    assert results[f"doc/{DB}"]["since"]
    checked = await node.cli("log", "verify")
    assert checked.code == 0, checked.err
    return str(results[f"doc/{DB}"]["digest"])


async def _assert_rebuilt(node: NodeProcess, digest: str) -> None:
    """Fail unless a node without databases makes them again, by a command and by itself."""
    assert await node.stop() == 0
    shutil.rmtree(node.data / "docs")
    rebuilt: Finished = await node.cli("rebuild", f"doc/{DB}", "--json")
    assert rebuilt.code == 0, rebuilt.err
    ((one),) = json.loads(rebuilt.out)
    assert one["digest"] == digest
    assert one["since"]
    shutil.rmtree(node.data / "docs")
    await node.start()
    assert await _count(node, None) == 3 * PART


async def _lost_and_restored(node: NodeProcess) -> None:
    """Take the machine away, and bring it back from what is archived."""
    await caught_up(node)
    assert await node.stop() == 0
    await until(lambda: not users_of(node.data) and not users_of(node.cache), 30)
    for folder in (node.data, node.cache):
        await asyncio.to_thread(shutil.rmtree, folder)
    restored = await node.cli("restore", "--json")
    assert restored.code == 0, restored.err
    await node.start()
