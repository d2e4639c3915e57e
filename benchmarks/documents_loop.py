"""The commit loop of a document without HTTP: what a write costs before anybody has to be spoken to."""

import asyncio
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.load import summary
from benchmarks.peers.processes import own_cpu_s
from benchmarks.peers.workload import BODY, INSERT, SCHEMA
from events.streams import ensure_streams
from forge.node import Addresses
from forge.stack.nats import NatsServer
from projectors.document.domain import document_domain, document_partition
from projectors.document.sql.bounds import SqlBounds
from projectors.partitions import Partitions
from schemas.document import RunSql, Statement

DOCUMENT = document_partition("loop")


async def commit_loop(folder: Path, clients: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """Let coroutines submit inserts to a document in this process; return figures by their number."""
    async with NatsServer(folder, supervised=False) as server:
        log = Addresses.of(server).open()
        await ensure_streams(await log.admin.jetstream(), 1)
        partitions = Partitions(log, {"doc": document_domain(folder / "docs", SqlBounds())}, node="bench", idle_s=300)
        try:
            await _submit(partitions, *SCHEMA)
            return {str(number): await _measure(partitions, number, seconds) for number in clients}
        finally:
            await partitions.close()
            await log.close()


async def _submit(partitions: Partitions, *statements: str) -> None:
    command = RunSql(statements=tuple(Statement(sql=sql) for sql in statements), classes=("read", "write", "admin"))
    await partitions.submit(DOCUMENT, command, principal="bench")


async def _measure(partitions: Partitions, clients: int, seconds: float) -> dict[str, float]:
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def one(number: int) -> None:
        while (started := time.perf_counter()) < end:
            command = RunSql(statements=(Statement(sql=INSERT, args=[BODY, number]),), classes=("write",))
            await partitions.submit(DOCUMENT, command, principal="bench")
            latencies.append(time.perf_counter() - started)

    cpu, began = own_cpu_s(), time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(clients)))
    wall = time.perf_counter() - began
    return summary(latencies, wall) | {"cpu_ms": round((own_cpu_s() - cpu) / len(latencies) * 1e3, 4)}
