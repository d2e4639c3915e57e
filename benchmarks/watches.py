"""What watches cost: memory of each, evaluations per commit, and how soon followers hear."""

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from api.sse import frame
from benchmarks.report import Report
from benchmarks.watches_http import over_http
from events.streams import ensure_streams
from forge.node import Addresses
from forge.stack.nats import NatsServer
from projectors.document.domain import document_domain, document_partition
from projectors.document.reads.reading import DocumentReaders
from projectors.document.sql.bounds import SqlBounds
from projectors.document.watches.evaluating import Asked, Evaluated, Evaluator
from projectors.document.watches.watching import Watches
from projectors.partitions import Partitions
from schemas.document import RunSql, Statement
from schemas.ids import Position
from schemas.problems import Refusal

TABLES = 50
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Bench:
    """Documents in this process, with watches; `evaluations` counts queries run for them, `turns` their batches."""

    partitions: Partitions
    readers: DocumentReaders
    evaluations: int = 0
    turns: int = 0
    watches: Watches = field(init=False)

    def __post_init__(self) -> None:
        evaluator = Evaluator(self.readers)

        async def evaluate(db_id: str, asked: Sequence[Asked]) -> tuple[Sequence[Evaluated | Refusal], Position]:
            outcomes, position = await evaluator.evaluate(db_id, asked)
            self.evaluations += len(outcomes)
            self.turns += 1
            return outcomes, position

        self.watches = Watches(self.partitions, evaluate, frame)

    async def sql(self, db_id: str, *sql: str) -> Position:
        """Run statements in one command."""
        command = RunSql(statements=tuple(Statement(sql=one) for one in sql), classes=("read", "write", "admin"))
        return (await self.partitions.submit(document_partition(db_id), command, principal="bench")).position


@dataclass(slots=True)
class Streams:
    """Followers, each a task that waits as the HTTP stream does."""

    bench: Bench
    heard: list[tuple[int, float]] = field(default_factory=list)
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)
    events: int = 0

    def follow(self, db_id: str, sql: str) -> None:
        """Begin to follow a query."""
        subscription = self.bench.watches.subscribe(db_id, Statement(sql=sql))

        async def run() -> None:
            try:
                while True:
                    raw = await subscription.next(300)
                    self.events += 1
                    self.heard.append((_index(raw), time.perf_counter()))
            finally:
                subscription.close()

        self.tasks.append(asyncio.create_task(run()))

    async def told(self, events: int) -> None:
        """Wait until so many events have come in all."""
        await until(lambda: self.events >= events)

    def end_on(self, position: Position) -> bool:
        """Say whether the newest event is one of `position`."""
        return bool(self.heard) and self.heard[-1][0] == position.index

    async def close(self) -> None:
        """End all followers."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Bench]:
    """Open documents on a log of their own."""
    async with NatsServer(folder / "nats", supervised=False) as server:
        log = Addresses.of(server).open()
        await ensure_streams(await log.admin.jetstream(), 1)
        docs, bounds = folder / "docs", SqlBounds()
        partitions = Partitions(log, {"doc": document_domain(docs, bounds)}, node="bench", idle_s=300)
        bench = Bench(partitions, DocumentReaders(partitions, docs, bounds))
        try:
            yield bench
        finally:
            await bench.watches.close()
            await bench.readers.close()
            await partitions.close()
            await log.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition`, which nothing tells about."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


def rss_bytes() -> int:
    """Return the resident memory of this process, after a collection."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


async def first_of_all(bench: Bench, db_id: str) -> None:
    """Use everything once, so that code, threads and connections are there before memory is compared."""
    streams = Streams(bench)
    for n in range(20):
        streams.follow(db_id, f"SELECT {n}")
    await streams.told(20)
    await streams.close()


async def different(bench: Bench, count: int, commits: int) -> dict[str, Any]:
    """Open `count` different watches of one document, and count what commits make them do."""
    await bench.sql("different", *(f"CREATE TABLE t{n} (id INTEGER PRIMARY KEY, a, b)" for n in range(TABLES)))
    await bench.sql("different", "CREATE TABLE other (a)")
    await first_of_all(bench, "different")
    streams, before, began = Streams(bench), rss_bytes(), time.perf_counter()
    for n in range(count):
        streams.follow("different", f"SELECT count(*), max(a) FROM t{n % TABLES} WHERE b = {n}")
    await streams.told(count)
    opening_s = time.perf_counter() - began
    memory = rss_bytes() - before
    figures: dict[str, Any] = {
        "watches": count,
        "opening_s": round(opening_s, 2),
        "kib_per_watch": round(memory / count / 1024, 2),
    }
    for name, table in (("unrelated", "other (a) VALUES (1)"), ("related", "t7 (a, b) VALUES (1, 7)")):
        evaluations, turns, events = bench.evaluations, bench.turns, streams.events
        cpu, began = time.process_time(), time.perf_counter()
        for _ in range(commits):
            position = await bench.sql("different", f"INSERT INTO {table}")
        commits_s = time.perf_counter() - began
        if name == "related":
            await until(partial(streams.end_on, position))
        figures[name] = {
            "commits": commits,
            "commits_per_s": round(commits / commits_s),
            "evaluations": bench.evaluations - evaluations,
            "turns": bench.turns - turns,
            "events": streams.events - events,
            "cpu_ms_per_commit": round((time.process_time() - cpu) / commits * 1e3, 3),
        }
    await streams.close()
    return figures


async def identical(bench: Bench, count: int, per_s: int, seconds: float) -> dict[str, Any]:
    """Let `count` streams follow one query while somebody writes at a steady rate; return how soon they hear."""
    db_id = f"identical-{count}"
    await bench.sql(db_id, "CREATE TABLE t (id INTEGER PRIMARY KEY)")
    await first_of_all(bench, db_id)
    streams, before = Streams(bench), rss_bytes()
    for _ in range(count):
        streams.follow(db_id, "SELECT count(*) FROM t")
    await streams.told(count)
    memory = rss_bytes() - before
    streams.heard.clear()
    evaluations, cpu, commits = bench.evaluations, time.process_time(), 0
    acked: dict[int, float] = {}
    began = time.perf_counter()
    while (due := began + commits / per_s) < began + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        position = await bench.sql(db_id, "INSERT INTO t DEFAULT VALUES")
        acked[position.index] = time.perf_counter()
        commits += 1
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    final = max(acked)
    await until(lambda: sum(index == final for index, _ in streams.heard[-count:]) == count)
    delays = sorted(at - acked[index] for index, at in streams.heard if index in acked)
    await streams.close()
    return {
        "streams": count,
        "kib_per_stream": round(memory / count / 1024, 2),
        "commits": commits,
        "commits_per_s": round(commits / wall),
        "evaluations": bench.evaluations - evaluations,
        "events": len(delays),
        "ack_to_event_ms": {
            "p50": round(statistics.median(delays) * 1e3, 3),
            "p99": round(delays[int(len(delays) * 0.99)] * 1e3, 3),
        },
        "cpu_share": round(cpu / wall, 3),
    }


def _index(raw: bytes) -> int:
    return int(raw[raw.index(b".") + 1 : raw.index(b"\n")])


async def in_process(case: str, seconds: float, commits: int, directory: Path | None) -> dict[str, Any]:
    """Measure one case, `identical` or `different` and a number, in this process, which has done nothing before."""
    kind, _, number = case.partition(":")
    with tempfile.TemporaryDirectory(prefix="watches-", dir=directory) as name:
        async with opened(Path(name)) as bench:
            if kind == "different":
                return await different(bench, int(number), commits)
            return await identical(bench, int(number), 100, seconds)


def in_child(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.watches", "--case", case, "--seconds", str(args.seconds)]
    command += ["--commits", str(args.commits)] + (["--dir", str(args.dir)] if args.dir else [])
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures: dict[str, Any] = json.loads(said.splitlines()[-1])
    return figures


def report(args: argparse.Namespace) -> Report:
    """Measure every case."""
    one, thousand, most = (in_child(f"identical:{number}", args) for number in (1, 1000, args.watches))
    many, http = in_child(f"different:{args.watches}", args), uvloop.run(over_http(args.watches))
    result = Report("watches", {"identical": [one, thousand, most], "different": many, "over_http": http})
    result.ratio("kib_per_watch", many["kib_per_watch"])
    result.ratio("kib_per_stream", most["kib_per_stream"])
    result.ratio("kib_per_watch_over_http", http["kib_per_stream"])
    result.ratio("evaluations_per_unrelated_commit", many["unrelated"]["evaluations"] / args.commits)
    result.ratio("evaluations_per_commit_of_1000_streams", thousand["evaluations"] / thousand["commits"])
    result.target("kib_per_watch", at_most=16)
    result.target("kib_per_stream", at_most=8)
    result.target("kib_per_watch_over_http", at_most=64)
    result.target("evaluations_per_unrelated_commit", at_most=0)
    result.target("evaluations_per_commit_of_1000_streams", at_most=1)
    return result


def main() -> None:
    """Print the figures as JSON; with `--case` those of one case only, in one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watches", type=int, default=5000)
    parser.add_argument("--commits", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--case", default="", help="identical:NUMBER or different:NUMBER")
    args = parser.parse_args()
    if args.case:
        figures = uvloop.run(in_process(args.case, args.seconds, args.commits, args.dir))
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        report(args).write()


if __name__ == "__main__":
    main()
