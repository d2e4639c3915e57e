"""A document whose digest at every position is known, for tests of its past."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from ulid import ULID

from events.log import Log
from forge.stack.nats import NatsServer
from projectors.document.domain import document_domain, document_partition, document_path
from projectors.document.past.travel import TimeTravel
from projectors.document.sql.bounds import SqlBounds
from projectors.domain import Domain
from projectors.partition import Partition
from projectors.rebuild import digest_of
from schemas.document import RunSql, Statement
from schemas.ids import Position
from tests.notes import opened_log, opened_partition

ALL = ("read", "write", "admin")
SCRIPT = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT, at DEFAULT (random()))",
    "CREATE VIRTUAL TABLE f USING fts5(body)",
    "CREATE TRIGGER filled AFTER INSERT ON t BEGIN INSERT INTO f (rowid, body) VALUES (new.id, new.body); END",
    "CREATE TABLE w (a TEXT PRIMARY KEY, b) WITHOUT ROWID",
)
CHANGES = (
    "INSERT INTO t (body) VALUES ('word' || abs(random() % 50))",
    "UPDATE t SET body = body || 'x' WHERE id = abs(random() % 20)",
    "DELETE FROM t WHERE id = abs(random() % 20)",
    "INSERT OR REPLACE INTO w (a, b) VALUES ('k' || abs(random() % 9), hex(randomblob(20)))",
    "CREATE TABLE IF NOT EXISTS later AS SELECT * FROM t",
    "CREATE INDEX IF NOT EXISTS by_body ON t (body) WHERE id > 3",
    "DROP INDEX IF EXISTS by_body",
)
ALTERED = "ALTER TABLE w ADD COLUMN c DEFAULT 'none'"


class Document:
    """A document whose digest at every position is known."""

    def __init__(self, db_id: str, log: Log, partition: Partition, domain: Domain, directory: Path) -> None:
        self.db_id = db_id
        self.log = log
        self.domain = domain
        self.digests: dict[Position, str] = {}
        self._partition = partition
        self._path = document_path(directory, db_id)

    async def run(self, *statements: str) -> Position:
        """Commit statements, and remember what the document then is."""
        command = RunSql(statements=tuple(Statement(sql=sql) for sql in statements), classes=ALL)
        answer = await self._partition.submit(command, principal="root")
        self.digests[answer.position] = await asyncio.to_thread(digest_of, self._path)
        return answer.position

    async def fill(self, changes: int, seed: int) -> None:
        """Make the tables and change them at random."""
        print("seed", seed)
        rng = random.Random(seed)
        for sql in SCRIPT:
            await self.run(sql)
        for number in range(changes):
            await self.run(ALTERED if number == changes // 2 else rng.choice(CHANGES))


@asynccontextmanager
async def kept_document(server: NatsServer, folder: Path) -> AsyncIterator[Document]:
    """Keep one document open."""
    db_id = f"travel-{str(ULID()).lower()}"
    domain = document_domain(folder / "docs", SqlBounds())
    async with (
        opened_log(server) as event_log,
        opened_partition(event_log, document_partition(db_id), domain) as partition,
    ):
        await partition.ready(20)
        yield Document(db_id, event_log, partition, domain, folder / "docs")


def travelling(document: Document, directory: Path, stack: AsyncExitStack, **options: Any) -> TimeTravel:
    """Return the past of the document, which `stack` closes."""
    options = {"bytes_max": 1 << 30, **options}
    travel = TimeTravel(document.log.reader, document.domain, directory, **options)
    stack.push_async_callback(travel.close)
    return travel


async def digest_at(travel: TimeTravel, document: Document, moment: Position | str) -> tuple[Position, str]:
    """Return which position is read at a moment, and what the document was there."""
    async with travel.at(document.db_id, moment) as copy:
        return copy.moment.position, await asyncio.to_thread(digest_of, copy.path)
