"""Histories of one document, decided and folded as the commit loop does, without a log server."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import apsw

from events.cursor import Cursor, Entry
from projectors.batch import Batch
from projectors.catch_up import fold_group
from projectors.command_queue import Pending
from projectors.digest import digest, quoted
from projectors.document.domain import document_domain, document_partition
from projectors.document.sql.bounds import SqlBounds
from projectors.document.system import Migration
from projectors.document.tables import Tables, free_rowid
from projectors.domain import Domain
from projectors.outcome import Outcome
from projectors.projection import Projection
from schemas.document import RunSql, SqlClass, Statement
from schemas.facts import Command
from tests.vector_history import MEMORY

DB_ID = "notes"
PARTITION = document_partition(DB_ID)
EVERYTHING: tuple[SqlClass, ...] = ("read", "write", "admin")
NOW = "2026-01-02T03:04:05.000006Z"


@dataclass(slots=True)
class Document:
    """A document that is open, and the records that made it what it is."""

    domain: Domain
    projection: Projection
    entries: list[Entry] = field(default_factory=list)
    migrations: tuple[Migration, ...] = ()
    clock: Callable[[], str] = lambda: NOW

    @property
    def db(self) -> apsw.Connection:
        """The writer's connection."""
        return self.projection.db

    def decide(self, *commands: Command, command_id: str | None = None) -> list[Outcome]:
        """Decide commands together and commit what came of them; return their outcomes."""
        waiting = [Pending(command, "root", command_id, cast(Any, None)) for command in commands]
        outcomes: list[Outcome] = []
        while waiting:
            batch = Batch(self.domain, [self.projection], PARTITION, "node-a", self.clock)
            decided = batch.decide(waiting)
            if batch.record:
                cursor = Cursor(batch.record.position, batch.record.hash, batch.before.sequence + 1)
                batch.commit(cursor)
                self.entries.append(Entry(batch.record, cursor))
            else:
                batch.rollback()
            outcomes += batch.outcomes
            waiting = waiting[decided:]
        return outcomes

    def upgrade(self, *migrations: Migration) -> None:
        """Go on as a newer Forge, which knows `migrations` more, and has opened the file anew."""
        self.migrations += migrations
        self.domain = document_domain(self.projection.path.parent, SqlBounds(), self.migrations)
        (spec,) = self.domain.projections(DB_ID)
        self.projection.close()
        self.projection = Projection(spec, PARTITION)

    def sql(self, *sql: str, classes: tuple[SqlClass, ...] = EVERYTHING) -> Any:
        """Run statements as one command; return its answer, or raise its refusal."""
        (outcome,) = self.decide(RunSql(statements=tuple(Statement(sql=one) for one in sql), classes=classes))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome[1]


@contextmanager
def new_document(migrations: Sequence[Migration] = (), bounds: SqlBounds | None = None) -> Iterator[Document]:
    """Open an empty document in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        domain = document_domain(Path(directory), bounds or SqlBounds(), migrations)
        (spec,) = domain.projections(DB_ID)
        document = Document(domain, Projection(spec, PARTITION), migrations=tuple(migrations))
        try:
            yield document
        finally:
            document.projection.close()


@contextmanager
def rebuilt(document: Document, records: int | None = None, *, at_a_time: int = 256) -> Iterator[apsw.Connection]:
    """Fold the records of a document (the first `records`) into a new file; yield a connection to it."""
    with new_document() as copy:
        entries = document.entries[:records]
        for start in range(0, len(entries), at_a_time):
            fold_group(copy.domain, [copy.projection], entries[start : start + at_a_time])
        yield copy.db


def content(db: apsw.Connection) -> tuple[str, dict[str, list[int]]]:
    """Return the digest, and the rowids of tables with another key in its order, which a digest leaves out."""
    tables = Tables.of(db)
    rowids = {}
    for (name,) in db.execute("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'").fetchall():
        if str(name).startswith(("sqlite_", "_forge")) or not tables.shape(str(name)).floating:
            continue
        shape = tables.shape(str(name))
        order = ", ".join(f"{quoted(column)} COLLATE BINARY" for column in shape.key)
        query = f"SELECT {free_rowid(shape)} FROM main.{quoted(shape.name)} ORDER BY {order}"
        rowids[shape.name] = [int(str(row[0])) for row in db.execute(query)]
    return digest(db), rowids
