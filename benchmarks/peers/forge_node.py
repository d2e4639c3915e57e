"""Forge itself as a contestant: a node in a process of its own, and its HTTP API of documents."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, ClassVar
from urllib.parse import urlsplit

from benchmarks.node import BenchNode, bench_node
from benchmarks.peers.load import call, encode_request, measure
from benchmarks.peers.processes import ProcessTree
from benchmarks.peers.workload import (
    BODY,
    INSERT,
    LOAD_S,
    POINT,
    PREPARED,
    RANGE,
    ROWS,
    SCHEMA,
    TICK,
    HttpContestant,
    Kind,
    first_ids,
)

DOCUMENT = "bench"
BATCH_ROWS = 100


class ForgeNode(HttpContestant):
    """A running node with one document. Every request carries the root token."""

    name: ClassVar[str] = "forge"

    def __init__(self, node: BenchNode) -> None:
        port = urlsplit(node.url).port
        assert port is not None
        self.node = node
        self.port = port
        self.processes = ProcessTree(node.pid)
        self.headers = {"Authorization": f"Bearer {node.token}"}

    def requests(self, kind: Kind) -> list[bytes]:
        """See `HttpContestant`."""
        if kind == "write":
            return [self.exec(INSERT, [BODY, n]) for n in range(PREPARED)]
        sql = POINT if kind == "point_read" else RANGE
        return [self.exec(sql, [n]) for n in first_ids(kind)]

    def encode(self, method: str, path: str, body: Any) -> bytes:
        """Return a request."""
        return encode_request(method, path, self.headers, body)

    def exec(self, sql: str, args: list[Any], db_id: str = DOCUMENT, headers: dict[str, str] | None = None) -> bytes:
        """Return the request that runs one statement."""
        path = f"/api/v1/db/{db_id}/query/exec"
        return encode_request("POST", path, self.headers | (headers or {}), {"sql": sql, "args": args})

    def keyed_writes(self) -> Iterator[bytes]:
        """Yield writes, each under an idempotency key of its own."""
        template = self.exec(INSERT, [BODY, 1], headers={"Idempotency-Key": "@@@@@@@@@@@@"})
        for number in count():
            yield template.replace(b"@@@@@@@@@@@@", b"key-%08d" % number, 1)

    def batch(self, rows: int = BATCH_ROWS) -> bytes:
        """Return the request that inserts `rows` rows, all or none."""
        statements = [{"sql": INSERT, "args": [BODY, n]} for n in range(rows)]
        path = f"/api/v1/db/{DOCUMENT}/query/batch"
        return encode_request("POST", path, self.headers, {"statements": statements})

    def tick(self, number: int) -> bytes:
        """Return the request that writes one row which subscribers hear of."""
        return self.exec(TICK, [number])

    def create(self, db_id: str) -> bytes:
        """Return the request that creates a document."""
        return encode_request("POST", "/api/v1/db", self.headers, {"db_id": db_id})

    async def load(self, clients: int = 16) -> None:
        """Create the document and its rows."""
        await call(self.port, self.create(DOCUMENT))
        for statement in SCHEMA:
            await call(self.port, self.exec(statement, []))
        batches = iter([self.batch()] * (ROWS // BATCH_ROWS))
        await measure(self.port, batches, 1, LOAD_S)


@asynccontextmanager
async def forge_node(**environ: str) -> AsyncIterator[ForgeNode]:
    """Start a node in a temporary folder, with the document and its rows."""
    with bench_node(**environ) as node:
        peer = ForgeNode(node)
        await peer.load()
        yield peer
