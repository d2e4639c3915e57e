"""Documents on a real log with watches over them, and what a follower of one sees."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ulid import ULID

from api.sse import frame
from events.log import Log
from forge.stack.nats import NatsServer
from projectors.document.domain import document_domain, document_partition
from projectors.document.reads.reading import DocumentReaders
from projectors.document.sql.bounds import SqlBounds
from projectors.document.watches.evaluating import Evaluator
from projectors.document.watches.watch import Subscription
from projectors.document.watches.watching import WatchBounds, Watches
from projectors.partitions import Partitions
from schemas.document import RunSql, Statement
from schemas.ids import Position
from tests.notes import opened_log

WITHIN_S = 30.0  # only a broken program takes as long
_numbers = itertools.count(1)


def new_db_id() -> str:
    """Return a document that nobody else uses."""
    return f"watched-{next(_numbers)}-{str(ULID()).lower()}"


class Seen(NamedTuple):
    """One event as a client reads it."""

    event: str
    position: Position | None
    data: Any


def parse(raw: bytes) -> Seen:
    """Read one frame; raise if it is not one."""
    assert raw.endswith(b"\n\n"), raw
    fields = dict(line.split(": ", 1) for line in raw.decode().strip().split("\n"))
    position = Position.parse(fields["id"]) if "id" in fields else None
    return Seen(fields["event"], position, json.loads(fields["data"]))


@dataclass(slots=True)
class Follower:
    """A client that follows a watch, and checks what it is told."""

    subscription: Subscription
    seen: list[Seen] = field(default_factory=list)

    async def next(self, heartbeat_s: float = WITHIN_S) -> Seen:
        """Return the next event."""
        async with asyncio.timeout(2 * WITHIN_S):
            while not (raw := await self.subscription.next(heartbeat_s)):
                pass
        seen = parse(raw)
        self.check(seen)
        self.seen.append(seen)
        return seen

    def check(self, seen: Seen) -> None:
        """Fail unless `seen` may follow what came before."""
        assert seen.position is not None
        assert seen.data["position"] == str(seen.position)
        last = self.seen[-1] if self.seen else None
        shown = self.shown
        if seen.event == "heartbeat":
            assert last is None or last.position is None or seen.position >= last.position
            return
        assert seen.event == ("update" if self.seen else "snapshot")
        assert last is None or last.position is None or seen.position > last.position
        assert shown is None or seen.data["result_hash"] != shown["result_hash"]

    @property
    def shown(self) -> Any:
        """The newest result."""
        return next((seen.data for seen in reversed(self.seen) if seen.event != "heartbeat"), None)

    async def until_rows(self, rows: list[list[Any]]) -> Seen:
        """Follow until the result is `rows`."""
        async with asyncio.timeout(WITHIN_S):
            while self.shown is None or self.shown["rows"] != rows:
                await self.next()
        return self.seen[-1]


class CountingEvaluator(Evaluator):
    """Notes which statements were evaluated, in which turns."""

    def __init__(self, readers: DocumentReaders) -> None:
        super().__init__(readers)
        self.turns: list[list[str]] = []

    async def evaluate(self, db_id: str, asked: Any) -> tuple[Any, Position]:
        """Evaluate and note it."""
        self.turns.append([one.statement.sql for one in asked])
        return await super().evaluate(db_id, asked)

    @property
    def evaluated(self) -> list[str]:
        """The statements, in the order of their evaluation."""
        return list(itertools.chain.from_iterable(self.turns))


@dataclass(slots=True)
class Watching:
    """A document, and the watches of its node."""

    partitions: Partitions
    readers: DocumentReaders
    evaluator: CountingEvaluator
    watches: Watches
    docs: Path
    db_id: str = field(default_factory=new_db_id)

    async def sql(self, *sql: str, args: list[Any] | None = None, db_id: str = "") -> Position:
        """Run statements in one command; return its position."""
        statements = tuple(Statement(sql=one, args=args or []) for one in sql)
        command = RunSql(statements=statements, classes=("read", "write", "admin"))
        answer = await self.partitions.submit(document_partition(db_id or self.db_id), command, principal="root")
        return answer.position

    def follow(
        self,
        sql: str,
        args: list[Any] | dict[str, Any] | None = None,
        *,
        max_rows: int | None = None,
        last_seen: Position | None = None,
        db_id: str = "",
    ) -> Follower:
        """Watch a query."""
        statement = Statement(sql=sql, args=args or [])
        return Follower(self.watches.subscribe(db_id or self.db_id, statement, max_rows=max_rows, last_seen=last_seen))

    async def settled(self) -> None:
        """Wait until nothing is to be evaluated: a watch of every commit has seen the last one."""
        partition = self.partitions[document_partition(self.db_id)]
        await partition.ready(WITHIN_S)
        position = partition.position
        assert position is not None
        follower = self.follow("SELECT 'settled'")
        while (await follower.next(0.01)).position != position:
            pass
        follower.subscription.close()


@asynccontextmanager
async def opened_watching(
    event_log: Log,
    docs: Path,
    *,
    bounds: WatchBounds | None = None,
    idle_s: float = 300,
) -> AsyncIterator[Watching]:
    """Open documents in `docs` with their readers and watches."""
    sql = SqlBounds()
    sql = SqlBounds()
    partitions = Partitions(event_log, {"doc": document_domain(docs, sql)}, node="test-node", idle_s=idle_s)
    readers = DocumentReaders(partitions, docs, sql)
    evaluator = CountingEvaluator(readers)
    watches = Watches(partitions, evaluator.evaluate, frame, bounds or WatchBounds())
    try:
        yield Watching(partitions, readers, evaluator, watches, docs)
    finally:
        await watches.close()
        await readers.close()
        await partitions.close()


@asynccontextmanager
async def new_watching(server: NatsServer, docs: Path, **options: Any) -> AsyncIterator[Watching]:
    """Open documents on the log of `server`."""
    async with opened_log(server) as event_log, opened_watching(event_log, docs, **options) as watching:
        yield watching
