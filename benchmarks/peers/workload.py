"""The rows and the calls that every contestant is given, and what a contestant is."""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any, ClassVar, Literal

from benchmarks.peers.load import measure
from benchmarks.peers.processes import ProcessTree

Kind = Literal["write", "point_read", "range_read"]
KINDS: tuple[Kind, ...] = ("write", "point_read", "range_read")
ROWS = 10_000
RANGE_ROWS = 100
BODY = "The quick brown fox jumps over the lazy dog, and goes home."
SCHEMA = (
    "CREATE TABLE item (id INTEGER PRIMARY KEY, body TEXT NOT NULL, n INTEGER NOT NULL)",
    "CREATE TABLE tick (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)",
)
INSERT = "INSERT INTO item (body, n) VALUES (?, ?)"
POINT = "SELECT id, body, n FROM item WHERE id = ?"
RANGE = f"SELECT id, body, n FROM item WHERE id >= ? ORDER BY id LIMIT {RANGE_ROWS}"
TICK = "INSERT INTO tick (id, n) VALUES (?1, ?1)"
LAST_TICK = "SELECT n FROM tick ORDER BY id DESC LIMIT 1"
PREPARED = 2_000  # requests that are encoded before a run; then they repeat
SEED = 3
LOAD_S = 60.0


def first_ids(kind: Kind) -> list[int]:
    """Return the row that each prepared read asks for (the same for every contestant)."""
    chosen = random.Random(SEED)
    last = ROWS if kind == "point_read" else ROWS - RANGE_ROWS
    return [chosen.randint(1, last) for _ in range(PREPARED)]


class Contestant(ABC):
    """Something that keeps the rows, and can be asked for them by many clients."""

    name: ClassVar[str]

    @abstractmethod
    async def measure(self, kind: Kind, clients: int, seconds: float) -> dict[str, Any]:
        """Let `clients` make calls of one kind for a while; return rate, latencies and what they cost."""


class HttpContestant(Contestant):
    """A server that takes calls over HTTP."""

    port: int
    processes: ProcessTree

    @abstractmethod
    def requests(self, kind: Kind) -> list[bytes]:
        """Return prepared requests of one kind."""

    async def measure(self, kind: Kind, clients: int, seconds: float) -> dict[str, Any]:
        """See `Contestant`; `server_cpu_ms` is per call, `server_cpu` in cores."""
        return await self.measure_requests(cycle(self.requests(kind)), clients, seconds)

    async def measure_requests(self, requests: Iterator[bytes], clients: int, seconds: float) -> dict[str, Any]:
        """Do the same with any requests."""
        await measure(self.port, requests, clients, min(0.3, seconds / 4))  # connections, caches, first plans
        before = self.processes.cpu_s()
        figures = await measure(self.port, requests, clients, seconds)
        used = self.processes.cpu_s() - before
        figures["server_cpu"] = round(used / (figures["calls"] / figures["per_s"]), 3)
        figures["server_cpu_ms"] = round(used / figures["calls"] * 1e3, 4)
        return figures

    async def load(self, clients: int = 16) -> None:
        """Write `ROWS` rows, through the API."""
        await measure(self.port, islice(cycle(self.requests("write")), ROWS), clients, LOAD_S)
