"""How fast a rebuild folds the log, against raw `executemany` inserts of the same rows."""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.report import Report
from events.streams import ensure_streams
from forge.node import Addresses
from forge.stack.nats import NatsServer
from projectors.domain import Domain, ProjectionSpec
from projectors.partitions import Partitions
from projectors.projection import Projection, connect, remove_database
from projectors.rebuild import rebuild
from projectors.threads import Threads
from projectors.vector.domain import PARTITION, vector_domain
from schemas.vector import AcceptUpload, ClaimJobs, CompleteJob

FILES = 30_000
DIMENSION = 256
ROUNDS = 3
WAVE = 500


async def fill(partitions: Partitions) -> None:
    """Take `FILES` files through the whole life of a job: three events each, a claim for many."""
    vector = os.urandom(4 * DIMENSION)
    for start in range(0, FILES, WAVE):
        uploads = [AcceptUpload(kind="text", file_hash=os.urandom(32).hex(), size_bytes=1) for _ in range(WAVE)]
        await asyncio.gather(*(partitions.submit(PARTITION, command, principal="bench") for command in uploads))
        claim = ClaimJobs(worker_id="bench", kinds=("text",), limit=WAVE, lease_s=3600)
        claimed = (await partitions.submit(PARTITION, claim, principal="bench")).value["jobs"]
        results = [
            CompleteJob(job_id=job["job_id"], worker_id="bench", model="bench", vector=vector) for job in claimed
        ]
        await asyncio.gather(*(partitions.submit(PARTITION, command, principal="bench") for command in results))
        assert start + len(claimed) <= FILES


def executemany(spec: ProjectionSpec, folder: Path) -> float:
    """Insert the rows of a finished projection into an empty one of the same schema; return seconds."""
    table = "job" if spec.name == "vector/queue" else "embedding"
    source = connect(spec.path, readonly=True)
    rows = source.execute(f"SELECT * FROM {table}").fetchall()
    source.close()
    path = folder / "raw.db"
    remove_database(path)
    raw = Projection(spec, PARTITION, path)
    marks = ",".join("?" * len(rows[0]))
    started = time.perf_counter()
    with raw.db:
        raw.db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
    seconds = time.perf_counter() - started
    raw.close()
    return seconds


async def measure(folder: Path) -> dict[str, Any]:
    """Fill a log once, then rebuild and insert in turns; return the medians."""
    domain: Domain = vector_domain(folder / "queue.db", folder / "embeddings.db", pending_max=1 << 40, attempts_max=3)
    async with NatsServer(folder, supervised=False) as server:
        log = Addresses.of(server).open()
        await ensure_streams(await log.admin.jetstream(), 1)
        partitions = Partitions(log, {"vector": domain}, node="bench", idle_s=300)
        await fill(partitions)
        await partitions.close()
        specs = domain.projections(PARTITION.key)
        folds: list[float] = []
        inserts: dict[str, list[float]] = {spec.name: [] for spec in specs}
        with Threads(2) as threads:
            for _ in range(ROUNDS):
                started = time.perf_counter()
                await rebuild(log.reader, threads, domain, PARTITION, specs)
                folds.append(time.perf_counter() - started)
                for spec in specs:
                    inserts[spec.name].append(await asyncio.to_thread(executemany, spec, folder))
        fold_s = statistics.median(folds)
        insert_s = {name: statistics.median(seconds) for name, seconds in inserts.items()}
        rows = FILES * len(specs)
        figures = {
            "rows": rows,
            "rebuild_s": round(fold_s, 3),
            "rebuild_rows_per_s": round(rows / fold_s),
            "executemany_s": {name: round(seconds, 3) for name, seconds in insert_s.items()},
            "executemany_rows_per_s": round(rows / sum(insert_s.values())),
        }
        await log.close()
        return figures


def main() -> None:
    """Run and write the result."""
    with tempfile.TemporaryDirectory() as name:
        figures = uvloop.run(measure(Path(name)))
    report = Report("fold", figures)
    report.ratio("rebuild_to_executemany", figures["rebuild_rows_per_s"] / figures["executemany_rows_per_s"])
    report.target("rebuild_to_executemany", at_least=0.25)
    report.write()


if __name__ == "__main__":
    main()
