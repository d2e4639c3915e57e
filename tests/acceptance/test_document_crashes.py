"""Kill -9 of the node, and of its NATS server, while clients write into a document: nothing is lost or half there."""

import asyncio
import json
import os
import random
import re
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from events.cursor import Cursor
from events.read import read
from forge.log_access import log_access
from projectors.document.domain import document_partition
from schemas.ids import Position
from tests.acceptance.conftest import StartNode
from tests.acceptance.document_writers import DB, DocumentWriters, Write
from tests.acceptance.node_process import NodeProcess
from tests.acceptance.test_crashes import child_runs
from tests.faults.checker import check
from tests.faults.killer import fresh_seed, is_alive, kill
from tests.waiting import until

KILLS, KILLS_LONG = 4, 50
ANSWERS_BETWEEN = 60
LATEST_S = 0.8
LARGE_MIB = 100
LARGE_KILLS, LARGE_KILLS_LONG = 2, 20
PATIENT = {"FORGE_SQL_TIMEOUT_S": "120"}
LONG_TIMEOUT_S = 3600
COUNTED = (
    "SELECT m.key, m.children, (SELECT count(*) FROM child c WHERE c.key = m.key), "
    "(SELECT count(*) FROM search s WHERE s.key = m.key) FROM marker m"
)
ORPHANS = "SELECT count(*) FROM child WHERE key NOT IN (SELECT key FROM marker)"


@pytest.mark.parametrize(
    "kills", [KILLS, pytest.param(KILLS_LONG, marks=[pytest.mark.long, pytest.mark.timeout(LONG_TIMEOUT_S)])]
)
async def test_killing_the_node_loses_no_answered_write(start_node: StartNode, kills: int) -> None:
    """PR1, PR3, PR5: rows, batches and DDL by several clients; half of the kills in the instant of an answer."""
    rng, node, writers = await _begin(start_node)
    async with writers.running():
        for _ in range(kills):
            await writers.answered(ANSWERS_BETWEEN)
            await _kill_somewhen(node.pid, writers, rng)
            await node.start()
        await writers.answered(ANSWERS_BETWEEN)
    await _prove(node, writers)


@pytest.mark.parametrize(
    "kills", [KILLS, pytest.param(KILLS_LONG, marks=[pytest.mark.long, pytest.mark.timeout(LONG_TIMEOUT_S)])]
)
async def test_killing_nats_loses_no_answered_write(start_node: StartNode, kills: int) -> None:
    """PR1, PR3, PR5: the node goes on by itself."""
    rng, node, writers = await _begin(start_node)
    async with writers.running():
        for _ in range(kills):
            await writers.answered(ANSWERS_BETWEEN)
            await node.ready()
            await _kill_somewhen(await child_runs(node, "nats"), writers, rng)
        await writers.answered(ANSWERS_BETWEEN)
    await _prove(node, writers)


@pytest.mark.parametrize(
    "kills",
    [LARGE_KILLS, pytest.param(LARGE_KILLS_LONG, marks=[pytest.mark.long, pytest.mark.timeout(LONG_TIMEOUT_S)])],
)
async def test_a_transaction_of_100_mib_is_there_whole_or_not_at_all(start_node: StartNode, kills: int) -> None:
    """PR1, PR5, PR7: killed between its first statement and its answer, beside small writes, and asked for again."""
    rng, node, writers = await _begin(start_node)
    before = _peak_bytes(node.pid)
    took_s = await _timed(writers.write(Write("large.0", LARGE_MIB, large=True)))
    print(f"{LARGE_MIB} MiB in {took_s:.1f} s; peak RSS {_peak_bytes(node.pid) >> 20} MiB, {before >> 20} MiB before")
    async with writers.running():
        for number in range(1, kills + 1):
            writing = asyncio.create_task(writers.write(Write(f"large.{number}", LARGE_MIB, large=True)))
            await asyncio.sleep(rng.uniform(0, took_s))
            await kill(node.pid)
            await node.start()
            await writing
    await _prove(node, writers)


async def _begin(start_node: StartNode) -> tuple[random.Random, NodeProcess, DocumentWriters]:
    seed = fresh_seed()
    print(f"seed {seed}")
    node = await start_node(extra=PATIENT)
    writers = DocumentWriters(node, seed)
    await writers.prepare()
    return random.Random(seed), node, writers


async def _kill_somewhen(pid: int, writers: DocumentWriters, rng: random.Random) -> None:
    if rng.randrange(2):
        await writers.at_next_answer(lambda: os.kill(pid, signal.SIGKILL))
        await until(lambda: not is_alive(pid))
    else:
        await asyncio.sleep(rng.uniform(0, LATEST_S))
        await kill(pid)


async def _timed(work: Coroutine[Any, Any, None]) -> float:
    began = asyncio.get_running_loop().time()
    await work
    return asyncio.get_running_loop().time() - began


async def _prove(node: NodeProcess, writers: DocumentWriters) -> None:
    """Assert that every answered command is there once and whole, and that all copies of the log agree."""
    await writers.ask_all_again()
    print(
        f"{len(writers.answers)} writes answered, {writers.retries} attempts repeated, {writers.repeated} asked again"
    )
    found = {str(key): counts for key, *counts in await _rows(node, COUNTED)}
    assert writers.answers.keys() <= found.keys() <= writers.sent.keys()
    assert [key for key, (told, children, searched) in found.items() if told != children or searched != 1] == []
    assert await _rows(node, ORPHANS) == [[0]]
    tables = {name for (name,) in await _rows(node, "SELECT name FROM sqlite_schema WHERE name LIKE 'made%'")}
    assert tables == {writers.sent[key].table for key in found if writers.sent[key].ddl}
    assert check(writers.history.operations(), await _logged(node, writers)) == []
    verified = await node.cli("log", "verify", "--json")
    assert verified.code == 0, verified.out + verified.err
    rebuilt = await node.cli("rebuild", "--verify", "--json")
    assert rebuilt.code == 0, rebuilt.out + rebuilt.err
    results = {result["projection"]: result["result"] for result in json.loads(rebuilt.out)}
    assert results[f"doc/{DB}"] == "equal"
    assert set(results.values()) == {"equal"}


async def _rows(node: NodeProcess, sql: str) -> list[list[object]]:
    headers = {"Accept": "application/x-ndjson"}
    async with node.http() as http:
        answer = await http.post(f"/api/v1/db/{DB}/query/exec", json={"sql": sql}, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        _, *rows, _ = map(json.loads, answer.text.splitlines())
        return rows


async def _logged(node: NodeProcess, writers: DocumentWriters) -> list[tuple[Position, list[str]]]:
    """Return the keys of the commands in each record of the document."""
    keys = {write.command_id: write.key for write in writers.sent.values()}
    partition = document_partition(DB)
    logged: list[tuple[Position, list[str]]] = []
    async with log_access(node.settings) as access:
        async for entry in read(access.log.reader, partition, Cursor.start(partition)):
            ids = [event["commandid"] for event in entry.record.envelopes() if "commandid" in event]
            logged.append((entry.record.position, [keys.get(found, found) for found in ids]))
    return logged


def _peak_bytes(pid: int) -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024
