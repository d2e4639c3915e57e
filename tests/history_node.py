"""Documents with their history over HTTP, on the log of a real server."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from ulid import ULID

from api.app import build_app
from api.auth import Access
from api.changes import ChangesApi
from api.replication import ReplicationApi
from api.server import Server
from api.snapshots import SnapshotApi
from api.tracking import Tracking
from events.log import Log
from forge.stack.nats import NatsServer
from projectors.control.replicas.rows import ReplicaRow
from projectors.control.replicas.tracker import ReplicaTracker
from projectors.document.domain import document_domain, document_partition
from projectors.document.history.decoding import Decoder
from projectors.document.history.history import History
from projectors.document.history.snapshots import Snapshots
from projectors.document.sql.bounds import SqlBounds
from projectors.partitions import Partitions
from projectors.threads import Threads
from schemas.document import RunSql, Statement
from schemas.facts import Command
from schemas.ids import Position
from schemas.problems import NOT_FOUND, Refusal
from schemas.replicas import ReplicaReport
from tests.notes import opened_log

TOKEN = "a-token-of-this-test"
WITHIN_S = 30.0
ALL = ("read", "write", "admin")
Headers = dict[str, str] | None


class Known:
    """The documents that exist: all but those named `missing`, and those in `deleted`."""

    def __init__(self) -> None:
        self.deleted: set[str] = set()

    def require(self, db_id: str) -> None:
        """Refuse what does not exist."""
        if db_id.startswith("missing") or db_id in self.deleted:
            raise Refusal(NOT_FOUND.problem(f"there is no document {db_id!r}"))


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event."""

    event: str
    id: str | None
    data: Any


@dataclass(frozen=True, slots=True)
class HistoryNode:
    """What a test needs to write documents and to read their history."""

    log: Log
    partitions: Partitions
    history: History
    snapshots: Snapshots
    replication: ReplicationApi
    known: Known
    client: httpx2.AsyncClient
    docs_dir: Path
    directory: Path

    async def sql(self, db_id: str, *statements: str, principal: str = "root", args: Any = ()) -> Position:
        """Run statements as one command; return its position."""
        command = RunSql(statements=tuple(Statement(sql=one, args=list(args)) for one in statements), classes=ALL)
        return (await self.partitions.submit(document_partition(db_id), command, principal=principal)).position

    async def command(self, db_id: str, *commands: Command) -> None:
        """Have commands decided, one after the other."""
        for command in commands:
            await self.partitions.submit(document_partition(db_id), command, principal="root")

    async def get(self, db_id: str, path: str, headers: Headers = None, /, **query: Any) -> httpx2.Response:
        """Return the answer to a GET below the document."""
        return await self.client.get(f"/api/v1/db/{db_id}/{path}", params=query, headers=headers)

    async def page(self, db_id: str, **query: Any) -> Any:
        """Return a page of the change feed."""
        answer = await self.get(db_id, "changes", **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def frames(self, db_id: str, headers: Headers = None, /, **query: Any) -> AsyncGenerator[Frame]:
        """Yield the events of the change feed, for ever."""
        asked = {"accept": "text/event-stream", **(headers or {})}
        async with self.client.stream("GET", f"/api/v1/db/{db_id}/changes", params=query, headers=asked) as answer:
            assert answer.status_code == 200, await answer.aread()
            fields: dict[str, str] = {}
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = value
                elif "data" in fields:
                    yield Frame(fields["event"], fields.get("id"), json.loads(fields["data"]))
                    fields = {}


async def _no_rows() -> list[ReplicaRow]:
    return []


async def _noted(_: tuple[ReplicaReport, ...]) -> None:
    pass


def new_db_id() -> str:
    """Return the name of a document that nobody else uses."""
    return f"doc-{str(ULID()).lower()}"


@asynccontextmanager
async def history_node(
    server: NatsServer, directory: Path, *, heartbeat_s: float = 10.0, **snapshot_options: Any
) -> AsyncIterator[HistoryNode]:
    """Serve the history of documents whose files lie below `directory`."""
    docs_dir = directory / "docs"
    async with AsyncExitStack() as closing:
        log = await closing.enter_async_context(opened_log(server))
        domain = document_domain(docs_dir, SqlBounds())
        partitions = Partitions(log, {domain.name: domain}, node="test-node", idle_s=60)
        closing.push_async_callback(partitions.close)

        async def ready(db_id: str, at_least: Position | None) -> Position:
            partition = partitions[document_partition(db_id)]
            await (partition.ready(WITHIN_S) if at_least is None else partition.reached(at_least, WITHIN_S))
            assert partition.position is not None
            return partition.position

        history = History(log)
        closing.push_async_callback(history.close)
        threads = closing.enter_context(Threads(2, "history"))
        snapshots = Snapshots(docs_dir, directory / "snapshots", ready, **snapshot_options)
        closing.callback(snapshots.close)
        known = Known()
        tracking = Tracking(ReplicaTracker(_no_rows, _noted, heartbeat_s=60))
        replication = ReplicationApi(history, known, tracking)
        changes = ChangesApi(history, known, Decoder(domain.facts, threads), heartbeat_s)
        app = build_app(
            changes.routes(),
            replication.routes(),
            SnapshotApi(snapshots, known, threads, tracking).routes(),
            authoriser=Access(TOKEN),
        )
        served = Server(app, "127.0.0.1", 0, connections_max=256)
        host, port = await served.start()
        closing.push_async_callback(served.stop)
        client = await closing.enter_async_context(
            httpx2.AsyncClient(
                base_url=f"http://{host}:{port}", headers={"authorization": f"Bearer {TOKEN}"}, timeout=WITHIN_S
            )
        )
        yield HistoryNode(log, partitions, history, snapshots, replication, known, client, docs_dir, directory)
