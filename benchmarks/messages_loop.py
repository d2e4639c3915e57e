"""Publishing through the commit loop alone, without HTTP or NATS: what a message costs before anybody is spoken to."""

import asyncio
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.load import summary
from benchmarks.peers.messages import payload
from benchmarks.peers.processes import own_cpu_s
from events.streams import ensure_streams
from forge.node import Addresses
from forge.stack.nats import NatsServer
from projectors.document.domain import document_domain, document_partition
from projectors.document.sql.bounds import SqlBounds
from projectors.document.system_tables import MIGRATIONS
from projectors.partitions import Partitions
from schemas.messages import NewMessage, PublishMessages

DOCUMENT = document_partition("loop")


async def publish_loop(folder: Path, callers: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """Let coroutines publish in this process, a message each; return figures by their number."""
    async with NatsServer(folder, supervised=False) as server:
        log = Addresses.of(server).open()
        await ensure_streams(await log.admin.jetstream(), 1)
        domain = document_domain(folder / "docs", SqlBounds(), MIGRATIONS)
        partitions = Partitions(log, {"doc": domain}, node="bench", idle_s=300)
        try:
            await _measure(partitions, 1, 0.2)
            return {str(number): await _measure(partitions, number, seconds) for number in callers}
        finally:
            await partitions.close()
            await log.close()


async def _measure(partitions: Partitions, callers: int, seconds: float) -> dict[str, float]:
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def one(number: int) -> None:
        while (started := time.perf_counter()) < end:
            text = payload(number).encode()
            message = NewMessage(topic=f"bench/{number % 20}", payload=text, content_type="text/plain")
            await partitions.submit(DOCUMENT, PublishMessages(messages=(message,)), principal="bench")
            latencies.append(time.perf_counter() - started)

    cpu, began = own_cpu_s(), time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(callers)))
    wall = time.perf_counter() - began
    return summary(latencies, wall) | {"cpu_us": round((own_cpu_s() - cpu) / len(latencies) * 1e6, 1)}
