"""Ten thousand documents on one node, a hundred of them active: open files, memory of the idle ones, cold openings."""

import argparse
import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.node import bench_node
from benchmarks.peers.forge_node import ForgeNode
from benchmarks.peers.load import Connection, percentiles
from benchmarks.peers.processes import raise_open_files, until
from benchmarks.peers.workload import BODY, INSERT, SCHEMA, SEED
from benchmarks.report import Report
from projectors.partitions import MEMORY_EVERY_S

IDLE_S = 5
WARMING = 2_500  # documents created before memory is first looked at: by then the bounded caches are full
CLIENTS = 16
CLOSED_S = 120.0
COUNT = "SELECT count(*) FROM item"


class Documents:
    """A node's documents, named by number."""

    def __init__(self, peer: ForgeNode) -> None:
        self.peer = peer
        self._connections: asyncio.Queue[Connection] = asyncio.Queue()

    async def connect(self) -> None:
        """Open the connections that all calls share."""
        for _ in range(CLIENTS):
            self._connections.put_nowait(await Connection.open(self.peer.port))

    async def call(self, *requests: bytes) -> float:
        """Send requests one after the other; return the seconds that they took together."""
        connection = await self._connections.get()
        try:
            started = time.perf_counter()
            for request in requests:
                await connection.call(request)
            return time.perf_counter() - started
        finally:
            self._connections.put_nowait(connection)

    async def create(self, numbers: range) -> dict[str, float]:
        """Create documents and write each once."""

        async def one(number: int) -> float:
            db_id = name(number)
            table, row = self.peer.exec(SCHEMA[0], [], db_id), self.peer.exec(INSERT, [BODY, number], db_id)
            return await self.call(self.peer.create(db_id), table, row)

        began = time.perf_counter()
        taken = await asyncio.gather(*map(one, numbers))
        return {"per_s": round(len(numbers) / (time.perf_counter() - began), 1)} | percentiles(taken)

    async def close(self) -> None:
        """Close the connections."""
        while not self._connections.empty():
            self._connections.get_nowait().close()


def name(number: int) -> str:
    """Return the name of a document."""
    return f"scale-{number:05d}"


def open_files(pid: int) -> dict[str, int]:
    """Return how many files of each kind a process has open."""
    kinds: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        kinds["documents" if "/docs/" in target else target.partition(":")[0] if ":" in target else "files"] += 1
    return dict(sorted(kinds.items()))


async def run(documents: int, active: int, cold: int, active_s: float) -> dict[str, Any]:
    """Create, let them go idle, look, use some, look again."""
    figures: dict[str, Any] = {"documents": documents, "active": active}
    with bench_node(FORGE_PARTITION_IDLE=str(IDLE_S), FORGE_CONNECTIONS_MAX="1000") as node:
        peer = ForgeNode(node)
        all_documents = Documents(peer)
        await all_documents.connect()
        warming = min(WARMING, documents // 2)
        await all_documents.create(range(warming))
        await _idle(node.pid)
        before = peer.processes.rss_mib()
        figures["created"] = await all_documents.create(range(warming, documents))
        await _idle(node.pid)
        after = peer.processes.rss_mib()
        figures["idle"] = {
            "open_files": open_files(node.pid),
            "rss_mib_before": before,
            "rss_mib": after,
            "bytes_per_document": _growth(before, after, documents - warming),
        }
        figures["cold_read"] = await _opened(all_documents, documents, cold, COUNT, [])
        figures["cold_write"] = await _opened(all_documents, documents, cold, INSERT, [BODY, 1])
        await _idle(node.pid)
        figures["used"] = await _use(all_documents, active, active_s)
        figures["used"] |= {"open_files": open_files(node.pid), "rss_mib": peer.processes.rss_mib()}
        await all_documents.close()
    return figures


async def _idle(pid: int) -> None:
    await until(lambda: not open_files(pid).get("documents"), timeout_s=CLOSED_S, every_s=0.5)
    await asyncio.sleep(MEMORY_EVERY_S + IDLE_S)  # freed memory is given back after that


def _growth(before: dict[str, float], after: dict[str, float], documents: int) -> dict[str, int]:
    return {program: int((after[program] - before.get(program, 0)) * (1 << 20) / documents) for program in after}


async def _opened(all_documents: Documents, documents: int, cold: int, sql: str, args: list[Any]) -> dict[str, float]:
    """Call documents that nobody has used for long, one after the other, and each once more."""
    chosen = random.Random(SEED + len(args)).sample(range(documents), cold)
    requests = [all_documents.peer.exec(sql, args, name(number)) for number in chosen]
    first = [await all_documents.call(request) for request in requests]
    again = [await all_documents.call(request) for request in requests]
    return percentiles(first) | {"p50_ms_when_open": percentiles(again)["p50_ms"]}


async def _use(all_documents: Documents, active: int, seconds: float) -> dict[str, Any]:
    """Write to the active documents in turn for a while."""
    peer, end = all_documents.peer, time.perf_counter() + seconds
    requests = [peer.exec(INSERT, [BODY, number], name(number)) for number in range(active)]
    taken: list[float] = []

    async def client(first: int) -> None:
        number = first
        while time.perf_counter() < end:
            taken.append(await all_documents.call(requests[number % active]))
            number += CLIENTS

    await asyncio.gather(*map(client, range(CLIENTS)))
    return {"writes_per_s": round(len(taken) / seconds, 1)} | percentiles(taken)


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1,000 documents; nothing is stored")
    quick = parser.parse_args().quick
    raise_open_files()
    sizes = (1_000, 20, 20, 2.0) if quick else (10_000, 100, 200, 10.0)
    figures = uvloop.run(run(*sizes))
    report = Report("scale_documents", figures)
    grown = next(size for program, size in figures["idle"]["bytes_per_document"].items() if "nats" not in program)
    report.ratio("open_files_of_idle_documents", figures["idle"]["open_files"].get("documents", 0))
    report.target("open_files_of_idle_documents", at_most=0)
    report.ratio("kib_per_idle_document", grown / 1024)
    report.target("kib_per_idle_document", at_most=2)
    report.write(store=not quick)


if __name__ == "__main__":
    main()
