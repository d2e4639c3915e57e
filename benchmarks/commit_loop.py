"""Group-committed appends through the commit loop against plain JetStream publishes, on one server, in one run."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, ClassVar

import apsw
import uvloop
from ulid import ULID

from benchmarks.report import Report
from events.append import Appended, append
from events.cursor import Cursor
from events.envelope import Event, encode_event
from events.log import Log
from events.record import Record, encode_payload
from events.streams import ensure_streams
from forge.node import Addresses
from forge.stack.nats import NatsServer
from projectors.domain import Decision, Domain, ProjectionSpec
from projectors.partitions import Partitions
from projectors.vector.domain import PARTITION, vector_domain
from schemas.facts import Command, Fact, facts_by_type
from schemas.ids import PartitionId
from schemas.instants import now
from schemas.vector import AcceptUpload

CALLERS = (1, 64, 256)
SECONDS = 3.0
ROUNDS = 3
EVENT_BYTES = 300  # a plain publish of the size of one of our events
COUNTER = PartitionId("gc")


class Counted(Fact):
    """A number was noted."""

    TYPE: ClassVar[str] = "forge.benchmark.number.noted"
    number: int

    @property
    def subject(self) -> str:
        """The number."""
        return str(self.number)


class Count(Command):
    """Note a number."""

    QUICK: ClassVar[bool] = True
    number: int


def counter_domain(folder: Path) -> Domain:
    """One insert and one event per command: the least that a domain can do."""

    def decide(_: apsw.Connection, command: Command, now: str) -> Decision:
        assert isinstance(command, Count)
        return Decision((Counted(number=command.number),), None)

    def apply(db: apsw.Connection, events: Sequence[Event]) -> None:
        for event in events:
            assert isinstance(event.fact, Counted)
            db.execute("INSERT INTO number VALUES (?, ?)", (event.fact.number, event.time))

    spec = ProjectionSpec(
        "benchmark/counter", folder / "counter.db", "CREATE TABLE number (number INTEGER, at TEXT)", apply, "1"
    )
    return Domain("gc", facts_by_type(Counted), {"Count": Count}, lambda _: (spec,), decide)


async def measure(callers: int, call: Callable[[int], Awaitable[object]], start: int) -> dict[str, float]:
    """Let `callers` call, each one call after the other, for a while, with numbers from `start`; return figures."""
    latencies: list[float] = []
    end = time.perf_counter() + SECONDS

    async def one(number: int) -> None:
        while (started := time.perf_counter()) < end:
            await call(number)
            number += callers
            latencies.append(time.perf_counter() - started)

    began = time.perf_counter()
    await asyncio.gather(*(one(start + n) for n in range(callers)))
    seconds = time.perf_counter() - began
    cuts = statistics.quantiles(latencies, n=100)
    return {"per_s": len(latencies) / seconds, "p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3}


async def run() -> dict[str, Any]:
    """Interleave the kinds in rounds, so that what disturbs one disturbs all; return the medians."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with NatsServer(folder, supervised=False) as server:
            log = Addresses.of(server).open()
            await ensure_streams(await log.admin.jetstream(), 1)
            domains = {
                "gc": counter_domain(folder),
                "vector": vector_domain(
                    folder / "queue.db", folder / "embeddings.db", pending_max=1 << 60, attempts_max=3
                ),
            }
            partitions = Partitions(log, domains, node="bench", idle_s=300)
            try:
                return await _rounds(log, partitions)
            finally:
                await partitions.close()
                await log.close()


async def _rounds(log: Log, partitions: Partitions) -> dict[str, Any]:
    jetstream = await log.writer.jetstream()
    payload = b"x" * EVENT_BYTES

    async def plain(_: int) -> object:
        return await jetstream.publish("forge.log.node.plain", payload)

    def counter(number: int) -> Coroutine[Any, Any, object]:
        return partitions.submit(COUNTER, Count(number=number), principal="bench")

    def upload(number: int) -> Coroutine[Any, Any, object]:
        command = AcceptUpload.model_construct(kind="text", file_hash=f"{number:064x}", size_bytes=1)
        return partitions.submit(PARTITION, command, principal="bench")

    log_level = await _grouped_appends(log)
    kinds: dict[str, Callable[[int], Coroutine[Any, Any, object]]] = {
        "plain_publish": plain,
        "commit_loop": counter,
        "commit_loop_vector": upload,
    }
    seen: dict[str, list[dict[str, float]]] = {}
    start = 0
    for _ in range(ROUNDS):
        for callers in CALLERS:
            for name, call in kinds.items():
                start += 10_000_000
                seen.setdefault(f"{name}_{callers}", []).append(await measure(callers, call, start))
    medians = {
        name: {key: round(statistics.median(r[key] for r in rounds), 4) for key in rounds[0]}
        for name, rounds in seen.items()
    }
    return medians | {"append_256_events": log_level}


async def _grouped_appends(log: Log) -> dict[str, float]:
    """Append records of 256 events one after the other: what the log alone does for 256 callers."""
    partition = PartitionId("node", "grouped")
    cursor = Cursor.start(partition)
    latencies: list[float] = []
    end = time.perf_counter() + SECONDS
    number = 0
    while (started := time.perf_counter()) < end:
        record_id = str(ULID())
        events = []
        for at in range(256):
            number += 1
            fact = Counted(number=number)
            events.append(encode_event(Event(f"{record_id}/{at}", "/forge/node/bench", now(), "bench", fact)))
        record = Record(partition, cursor.position.next(), cursor.hash, record_id, "bench", *encode_payload(events))
        outcome = await append(log.writer, record, cursor.sequence)
        assert isinstance(outcome, Appended)
        cursor = Cursor(record.position, record.hash, outcome.sequence)
        latencies.append(time.perf_counter() - started)
    return {"events_per_s": round(number / sum(latencies), 1), "p50_ms": round(statistics.median(latencies) * 1e3, 4)}


def main() -> None:
    """Run and write the result."""
    medians = uvloop.run(run())
    report = Report("commit_loop", medians)
    for callers in CALLERS:
        plain = medians[f"plain_publish_{callers}"]
        for name in ("commit_loop", "commit_loop_vector"):
            ours = medians[f"{name}_{callers}"]
            report.ratio(f"{name}_rate_{callers}", ours["per_s"] / plain["per_s"])
            report.ratio(f"{name}_p50_{callers}", ours["p50_ms"] / plain["p50_ms"])
    grouped = medians["append_256_events"]["events_per_s"] / medians["plain_publish_256"]["per_s"]
    report.ratio("append_256_events_rate", grouped)
    report.target("append_256_events_rate", at_least=25)
    report.target("commit_loop_rate_256", at_least=25)
    report.target("commit_loop_p50_1", at_most=1.6)
    report.write()


if __name__ == "__main__":
    main()
