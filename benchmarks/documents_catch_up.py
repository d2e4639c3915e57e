"""A replica that was away: how fast it takes over what was committed meanwhile, against how fast that was written."""

import asyncio
import os
import resource
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import apsw

from benchmarks.peers.forge_node import ForgeNode
from benchmarks.peers.load import call, measure
from benchmarks.peers.workload import BODY, INSERT, PREPARED, SCHEMA

DOCUMENT = "catch-up"
WRITERS = 128
WRITTEN_S = 600.0


async def catch_up(peer: ForgeNode, folder: Path, commits: int) -> dict[str, Any]:
    """Take a replica, write `commits` rows one by one, and let the replica catch up."""
    file = folder / "replica.db"
    await call(peer.port, peer.create(DOCUMENT))
    for statement in SCHEMA:
        await call(peer.port, peer.exec(statement, [], DOCUMENT))
    await _follow(peer, file)
    requests = [peer.exec(INSERT, [BODY, n], DOCUMENT) for n in range(PREPARED)]
    cpu = peer.processes.cpu_s()
    live = await measure(peer.port, islice(cycle(requests), commits), WRITERS, WRITTEN_S)
    live["server_cpu_ms"] = round((peer.processes.cpu_s() - cpu) / commits * 1e3, 4)
    cpu = peer.processes.cpu_s()
    taken = await _follow(peer, file)
    taken["server_cpu_s"] = round(peer.processes.cpu_s() - cpu, 2)
    nothing_new = await _follow(peer, file)
    _require_rows(file, commits)
    applying_s = taken["seconds"] - nothing_new["seconds"]
    return {
        "commits": commits,
        "live": live,
        "caught_up": taken,
        "nothing_new": nothing_new,
        "applied_per_s": round(commits / taken["seconds"], 1),
        "applied_per_s_without_start": round(commits / applying_s, 1),
    }


async def _follow(peer: ForgeNode, file: Path) -> dict[str, float]:
    """Run `forge replica --once` as a user does; return how long it took, and its processor time."""
    command = [sys.executable, "-m", "forge", "replica", DOCUMENT, str(file), "--once"]
    environ = os.environ | {"FORGE_URL": peer.node.url, "FORGE_TOKEN": peer.node.token}
    cpu, began = _children_cpu_s(), time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0
    return {"seconds": round(time.perf_counter() - began, 3), "cpu_s": round(_children_cpu_s() - cpu, 2)}


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _require_rows(file: Path, commits: int) -> None:
    database = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    rows = database.execute("SELECT count(*) FROM item").get
    database.close()
    assert rows == commits, f"the replica has {rows} rows, not {commits}"
