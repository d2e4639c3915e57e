"""What is measured of each contestant: lag, price, bytes, and the way back."""

import asyncio
import os
import random
import sqlite3
import tempfile
import time
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.peers.stored import Stored
from benchmarks.replication_contestants import BUCKET, ForgeSide, LitestreamSide, Running, count_rows

INSERT = "INSERT INTO item (body) VALUES (?)"
UPDATE = "UPDATE item SET body = ? WHERE id = ?"
PER_S = 100
LOOK_S = 0.02
SETTLE_S = 3.0
IDLE_S = 6.0
ROW_BYTES = 1024
ROWS_BEFORE = 16_384  # of a KiB, before some of them are changed
LARGE_ROW_BYTES = 8192
BATCH = 90  # large rows in one transaction
TAIL = 500
MIB = 1 << 20

Side = ForgeSide | LitestreamSide


async def lag(side: Side, client: Any, seconds: float, interval_s: float) -> dict[str, float]:
    """Return how long after its commit a row is in the store, at 100 rows a second."""
    async with side.running(1, interval_s=interval_s) as running:
        await asyncio.sleep(SETTLE_S)
        committed = []
        with Stored(client, BUCKET, running.newest, LOOK_S).watching() as stored:
            async for _ in paced(seconds):
                await running.write(0, [(INSERT, [text(100)])])
                committed.append(time.time())
            await asyncio.sleep(interval_s + SETTLE_S)
        with tempfile.TemporaryDirectory() as folder:
            reached = await asyncio.to_thread(running.reached, stored.appeared(), Path(folder))
    rows = [rows for rows, _ in reached]
    lags = [reached[at][1] - when for n, when in enumerate(committed, 1) if (at := bisect_left(rows, n)) < len(rows)]
    if len(lags) < len(committed):
        raise RuntimeError(f"{len(committed) - len(lags)} of {len(committed)} rows of {side.name} never appeared")
    lags.sort()
    return {f"p{n}_ms": round(lags[min(len(lags) - 1, len(lags) * n // 100)] * 1e3, 1) for n in (50, 99)}


async def paced(seconds: float) -> AsyncIterator[int]:
    """Yield numbers, 100 a second; late ones are not left out."""
    began = time.perf_counter()
    for n in range(int(seconds * PER_S)):
        await asyncio.sleep(max(0.0, began + n / PER_S - time.perf_counter()))
        yield n


async def cost(side: Side, count: int, seconds: float) -> dict[str, float]:
    """Return what replicating so many databases takes in processor time and memory, written and idle."""
    found = await _used(side, count, seconds, replicates=True)
    if isinstance(side, LitestreamSide):
        return found
    without = await _used(side, count, seconds, replicates=False)
    return (
        {name: round(found[name] - without[name], 2) for name in found}
        | {f"node_{name}": value for name, value in found.items()}
        | {f"node_without_{name}": value for name, value in without.items()}
    )


async def _used(side: Side, count: int, seconds: float, *, replicates: bool) -> dict[str, float]:
    async with side.running(count, replicates=replicates) as running:
        processes = running.processes
        assert processes is not None
        await asyncio.sleep(SETTLE_S)
        cpu, began = processes.cpu_s(), time.perf_counter()
        async for n in paced(seconds):
            await running.write(n % count, [(INSERT, [text(100)])])
        await asyncio.sleep(SETTLE_S)
        wall, written = time.perf_counter() - began, processes.cpu_s()
        memory = sum(processes.rss_mib().values())
        await asyncio.sleep(IDLE_S)
        idle = processes.cpu_s() - written
    return {
        "cpu_percent": round((written - cpu) / wall * 100, 2),
        "idle_cpu_percent": round(idle / IDLE_S * 100, 2),
        "rss_mib": round(memory, 1),
    }


async def changed(side: Side, client: Any, updates: int) -> dict[str, float]:
    """Return how many MiB are stored for each MiB of rows that change, here and there in a file of 16 MiB."""
    rng = random.Random(7)
    async with side.running(1) as running:
        await fill(running, ROWS_BEFORE, ROW_BYTES, batch=512)
        await running.settle()
        await asyncio.sleep(SETTLE_S)
        with Stored(client, BUCKET, running.prefix, 0.25).watching() as stored:
            async for _ in paced(updates / PER_S):
                await running.write(0, [(UPDATE, [text(ROW_BYTES), rng.randrange(1, ROWS_BEFORE)])])
            await asyncio.sleep(SETTLE_S)
            at_once = stored.uploaded_bytes()
            await running.settle()
    mib = updates * ROW_BYTES / MIB
    return {
        "changed_mib": round(mib, 2),
        "stored_at_once_mib_per_mib": round(at_once / MIB / mib, 2),
        "stored_mib_per_mib": round(stored.uploaded_bytes() / MIB / mib, 2),
    }


async def restore(side: Side, size_mib: int) -> dict[str, float]:
    """Return how long it takes until a database is back as a file: as it is, and as it was at a moment."""
    async with side.running(1) as running:
        rows = size_mib * MIB // LARGE_ROW_BYTES
        began = time.perf_counter()
        await fill(running, rows, LARGE_ROW_BYTES, batch=BATCH)
        filled = time.perf_counter() - began
        await running.settle()
        settled = time.perf_counter() - began - filled
        await fill(running, TAIL, 100, batch=1)
        await asyncio.sleep(2 * SETTLE_S)
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        await asyncio.sleep(SETTLE_S)
        await fill(running, TAIL, 100, batch=1)
        await asyncio.sleep(2 * SETTLE_S)
        with tempfile.TemporaryDirectory() as folder:
            all_of_it, then = Path(folder, "all.db"), Path(folder, "then.db")
            seconds = await asyncio.to_thread(running.restore, 0, all_of_it)
            moment_s = await asyncio.to_thread(running.restore, 0, then, moment)
            found = {
                "file_mib": round(size_of(all_of_it) / MIB, 1),
                "fill_s": round(filled, 2),
                "settle_s": round(settled, 2),
                "restore_s": round(seconds, 2),
                "moment_s": round(moment_s, 2),
                "rows_missing": rows + 2 * TAIL - count_rows(all_of_it),
                "rows_missing_at_moment": rows + TAIL - count_rows(then),
            }
            check(all_of_it)
            check(then)
    return found


async def fill(running: Running, rows: int, row_bytes: int, *, batch: int) -> None:
    """Insert rows of text that packs to about half."""
    while rows > 0:
        several = min(rows, batch)
        await running.write(0, [(INSERT, [text(row_bytes)]) for _ in range(several)])
        rows -= several


def size_of(path: Path) -> int:
    """Return the size of a file in bytes."""
    return path.stat().st_size


def text(size: int) -> str:
    """Return random text."""
    return os.urandom(size // 2).hex()


def check(path: Path) -> None:
    """Fail unless a restored file is sound."""
    with closing(sqlite3.connect(path)) as opened:
        found = opened.execute("PRAGMA quick_check").fetchone()[0]
    if found != "ok":
        raise RuntimeError(f"{path} is damaged: {found}")
