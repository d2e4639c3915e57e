"""Plain SQLite in this process: the same statements, one fsynced transaction for each write, no server around it."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import apsw

from benchmarks.peers.load import summary
from benchmarks.peers.processes import own_cpu_s
from benchmarks.peers.workload import BODY, INSERT, POINT, PREPARED, RANGE, ROWS, SCHEMA, Contestant, Kind, first_ids

Work = Callable[[int], object]


class PlainSqlite(Contestant):
    """One file in WAL mode with `synchronous=FULL`: one writer behind a lock, a reading connection for each thread."""

    name: ClassVar[str] = "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = self._connect()
        self._lock = threading.Lock()
        for statement in SCHEMA:
            self._writer.execute(statement)
        with self._writer:
            self._writer.executemany(INSERT, ((BODY, n) for n in range(ROWS)))

    async def measure(self, kind: Kind, clients: int, seconds: float) -> dict[str, Any]:
        """See `Contestant`: every client is a thread."""
        connections = [self._writer if kind == "write" else self._connect() for _ in range(clients)]
        latencies: list[float] = []
        with ThreadPoolExecutor(clients) as pool:
            cpu, began = own_cpu_s(), time.perf_counter()
            works = (self._work(kind, connection) for connection in connections)
            list(pool.map(lambda work: _repeat(work, began + seconds, latencies), works))
            wall, used = time.perf_counter() - began, own_cpu_s() - cpu
        for connection in connections:
            if connection is not self._writer:
                connection.close()
        figures: dict[str, Any] = summary(latencies, wall)
        return figures | {"server_cpu": round(used / wall, 3), "server_cpu_ms": round(used / len(latencies) * 1e3, 4)}

    def close(self) -> None:
        """Close the writer."""
        self._writer.close()

    def _work(self, kind: Kind, connection: apsw.Connection) -> Work:
        def write(number: int) -> None:
            with self._lock:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(INSERT, (BODY, number))
                connection.execute("COMMIT")

        sql, ids = POINT if kind == "point_read" else RANGE, first_ids(kind)
        read: Work = lambda number: connection.execute(sql, (ids[number % PREPARED],)).fetchall()  # noqa: E731
        return write if kind == "write" else read

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(str(self._path))
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection


def _repeat(work: Work, end: float, latencies: list[float]) -> None:
    taken = []
    for number in cycle(range(PREPARED)):
        started = time.perf_counter()
        if started >= end:
            break
        work(number)
        taken.append(time.perf_counter() - started)
    latencies += taken


@contextmanager
def plain_sqlite(folder: Path) -> Iterator[PlainSqlite]:
    """Open it in `folder`, with its rows."""
    database = PlainSqlite(folder / "plain.db")
    try:
        yield database
    finally:
        database.close()
