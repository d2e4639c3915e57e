"""The two that replicate, behind one face: databases that are written, and what the store has of them."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import Any, Protocol, Self

from benchmarks.node import BenchNode, bench_node
from benchmarks.peers.forge_node import ForgeNode
from benchmarks.peers.litestream import Litestream
from benchmarks.peers.load import Connection, call
from benchmarks.peers.processes import ProcessTree
from forge.stack.weed import REGION, Weed

BUCKET = "bench"
SCHEMA = "CREATE TABLE item (id INTEGER PRIMARY KEY, body TEXT)"
COUNT = "SELECT count(*) FROM item"
RESTORE_S = 1800.0
COMPACTS_S = 32.0  # Litestream gathers what came in a file of the next level every 30 s
_SEGMENT = re.compile(r"/(\d{20})-(\d{20})\.seg$")
_LTX = re.compile(r"/([0-9a-f]{16})-([0-9a-f]{16})\.ltx$")
_numbers = count(1)

Statement = tuple[str, Sequence[Any]]


class Running(Protocol):
    """Databases by number. The store has them below `prefix`, what is new of number 0 below `newest`."""

    processes: ProcessTree | None
    prefix: str
    newest: str

    async def write(self, database: int, statements: Sequence[Statement]) -> None:
        """Write durably, all statements in one transaction."""

    async def settle(self) -> None:
        """Have all made now that is made from time to time, as far as anybody can ask for it; else wait for it."""

    def reached(self, appeared: dict[str, float], folder: Path) -> list[tuple[int, float]]:
        """Return, in order, how many rows of database 0 are in the store, and since when."""

    def restore(self, database: int, target: Path, moment: str | None = None) -> float:
        """Restore one database as a file, perhaps as it was at a moment; return how long it took in seconds."""


class LitestreamRunning:
    """SQLite files in WAL mode, every transaction fsynced, and perhaps Litestream beside them."""

    def __init__(self, peer: Litestream, databases: Sequence[Path], processes: ProcessTree | None) -> None:
        self._peer = peer
        self._paths = databases
        self._opened = [sqlite3.connect(path, isolation_level=None) for path in databases]
        self.processes = processes
        self.prefix = peer.prefix
        self.newest = f"{peer.prefix}/{databases[0].stem}/0000/"

    async def write(self, database: int, statements: Sequence[Statement]) -> None:
        """See `Running`."""
        opened = self._opened[database]
        opened.execute("BEGIN IMMEDIATE")
        for sql, arguments in statements:
            opened.execute(sql, arguments)
        opened.execute("COMMIT")

    async def settle(self) -> None:
        """See `Running`."""
        await asyncio.sleep(COMPACTS_S)

    def reached(self, appeared: dict[str, float], folder: Path) -> list[tuple[int, float]]:
        """See `Running`. A file of changes says nothing of rows: each is restored, and they are counted."""
        found = []
        for key, when in sorted(appeared.items()):
            if name := _LTX.search(key):
                target = folder / f"{name[2]}.db"
                try:
                    self._peer.restore(self._paths[0], target, "-txid", name[2])
                    found.append((count_rows(target), when))
                except (subprocess.CalledProcessError, sqlite3.OperationalError):
                    continue  # before there was a table
        return found

    def restore(self, database: int, target: Path, moment: str | None = None) -> float:
        """See `Running`."""
        return self._peer.restore(self._paths[database], target, *(("-timestamp", moment) if moment else ()))

    def close(self) -> None:
        """Close the files."""
        for opened in self._opened:
            opened.close()


class LitestreamSide:
    """Litestream 0.5 as it comes, but for how often it looks."""

    name = "litestream"

    def __init__(self, weed: Weed, folder: Path, programs: Path | None) -> None:
        self._weed = weed
        self._folder = folder
        self._programs = programs

    @asynccontextmanager
    async def running(
        self, databases: int, *, interval_s: float = 1.0, replicates: bool = True
    ) -> AsyncIterator[LitestreamRunning]:
        """Make the files, and replicate them inside the block."""
        prefix = f"litestream-{next(_numbers)}"
        folder = self._folder / prefix
        folder.mkdir(parents=True)
        paths = [folder / f"d{n}.db" for n in range(databases)]
        for path in paths:
            with closing(sqlite3.connect(path, isolation_level=None)) as made:
                made.execute("PRAGMA journal_mode=WAL")
                made.execute(SCHEMA)
        peer = Litestream(self._weed, BUCKET, prefix, folder, self._programs)
        with ExitStack() as closings:
            processes = closings.enter_context(peer.replicating(paths, sync_s=interval_s)) if replicates else None
            running = LitestreamRunning(peer, paths, processes)
            closings.callback(running.close)
            yield running


class ForgeRunning:
    """Documents of a node."""

    def __init__(self, node: BenchNode, environ: dict[str, str], connection: Connection) -> None:
        self._node = ForgeNode(node)
        self._environ = environ
        self._connection = connection
        self.processes: ProcessTree | None = ProcessTree(node.pid)
        self.prefix = environ.get("FORGE_S3_PREFIX", "")
        self.newest = f"{self.prefix}/log/FORGE_DOCS/doc.d0/"

    @classmethod
    async def of(cls, node: BenchNode, environ: dict[str, str], databases: int) -> Self:
        """Make the documents."""
        made = cls(node, environ, await Connection.open(ForgeNode(node).port))
        for n in range(databases):
            await made._connection.call(made._node.create(f"d{n}"))
            await made.write(n, [(SCHEMA, ())])
        return made

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    async def write(self, database: int, statements: Sequence[Statement]) -> None:
        """See `Running`."""
        listed = [{"sql": sql, "args": list(arguments)} for sql, arguments in statements]
        single = len(listed) == 1
        path = f"/api/v1/db/d{database}/query/{'exec' if single else 'batch'}"
        body = listed[0] if single else {"statements": listed}
        await self._connection.call(self._node.encode("POST", path, body))

    async def settle(self) -> None:
        """See `Running`."""
        wanted = {"projections": ["doc/d0"]}
        request = self._node.encode("POST", "/api/v1/replicate/generations", wanted)
        while (answer := await call(self._node.port, request))["generations"][0]["result"] == "making":
            pass
        if answer["generations"][0]["problem"]:
            raise RuntimeError(answer["generations"][0]["problem"])

    def reached(self, appeared: dict[str, float], folder: Path) -> list[tuple[int, float]]:
        """See `Running`. The first record is that of the schema, each other one is a row."""
        found = [(int(name[2]) - 1, when) for key, when in appeared.items() if (name := _SEGMENT.search(key))]
        return sorted(found)

    def restore(self, database: int, target: Path, moment: str | None = None) -> float:
        """See `Running`."""
        at = ["--at", moment] if moment else []
        command = [sys.executable, "-m", "forge", "restore", f"d{database}", *at, "--to", str(target)]
        environ = os.environ | self._environ | {"FORGE_DATA_DIR": str(target.parent / "nowhere")}
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, timeout=RESTORE_S, env=environ)
        return time.perf_counter() - began


class ForgeSide:
    """A node as it comes, but for how often it archives."""

    name = "forge"

    def __init__(self, weed: Weed) -> None:
        self._weed = weed

    @asynccontextmanager
    async def running(
        self, databases: int, *, interval_s: float = 1.0, replicates: bool = True
    ) -> AsyncIterator[ForgeRunning]:
        """Start a node and make the documents, which are archived inside the block."""
        environ = self._environ(interval_s) if replicates else {}
        with bench_node(**environ) as node:
            running = await ForgeRunning.of(node, environ, databases)
            try:
                yield running
            finally:
                running.close()

    def _environ(self, interval_s: float) -> dict[str, str]:
        return {
            "FORGE_S3_BUCKET": BUCKET,
            "FORGE_S3_PREFIX": f"forge-{next(_numbers)}",
            "FORGE_S3_REGION": REGION,
            "FORGE_S3_ENDPOINT_URL": self._weed.s3_url,
            "FORGE_S3_ACCESS_KEY_ID": self._weed.access_key,
            "FORGE_S3_SECRET_ACCESS_KEY": self._weed.secret_key,
            "FORGE_S3_FORCE_PATH_STYLE": "true",
            "FORGE_ARCHIVE_SEAL_S": str(interval_s),
        }


def count_rows(path: Path) -> int:
    """Return how many rows a restored database has."""
    with closing(sqlite3.connect(path)) as opened:
        return int(opened.execute(COUNT).fetchone()[0])
