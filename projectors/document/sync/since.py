"""What happened to a document since a position that somebody's copy stands at."""

import asyncio
import re
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing, closing
from pathlib import Path

import apsw

from events.cursor import Entry
from events.envelope import decode_events
from projectors.document.history.history import History
from projectors.document.tables import Tables
from projectors.projection import connect, read_cursor
from schemas.document import ChangesetStep, DdlStep, DocumentFact, RowsStep
from schemas.document_domain import FACTS
from schemas.ids import PartitionId, Position

BYTES_MAX = 64 << 20  # of changesets; whoever is further behind takes a new copy
_SHAPES_TABLES = re.compile(r"(ALTER|DROP|CREATE)\s+(VIRTUAL\s+)?TABLE\b", re.IGNORECASE)


class TooMuch(Exception):
    """More has happened than is worth telling."""


async def facts_since(
    history: History, partition: PartitionId, base: Position, until: Position
) -> AsyncGenerator[DocumentFact]:
    """Yield the facts after `base` up to `until`; raise what `events.seek.seek` and reading raise."""
    if base >= until:
        return
    async with aclosing(history.read(partition, await history.place(partition, base))) as entries:
        async for entry in entries:
            if entry.cursor.position > until:
                return
            for fact in await asyncio.to_thread(_facts, entry):
                yield fact


async def reshaped_since(
    history: History, partition: PartitionId, base: Position, until: Position, names: Collection[str]
) -> set[str]:
    """Return which of `names` (in lower case) a statement about tables has named since `base`; rather too many."""
    reshaped: set[str] = set()
    async with aclosing(facts_since(history, partition, base, until)) as facts:
        async for fact in facts:
            for step in fact.steps:
                if isinstance(step, DdlStep) and _SHAPES_TABLES.search(step.sql):
                    said = step.sql.lower()
                    reshaped.update(name for name in names if name in said)
    return reshaped


async def changesets_since(history: History, partition: PartitionId, base: Position, until: Position) -> list[bytes]:
    """Return the changesets after `base` up to `until`; raise `TooMuch` if they cannot tell all, or are large."""
    found: list[bytes] = []
    size = 0
    async with aclosing(facts_since(history, partition, base, until)) as facts:
        async for fact in facts:
            if fact.changes_schema:
                raise TooMuch("the tables themselves were changed")
            for step in fact.steps:
                if isinstance(step, RowsStep):
                    raise TooMuch(f"many rows of {step.table}, a table without a key, were changed")
                if isinstance(step, ChangesetStep):
                    found.append(step.data)
                    size += len(step.data)
            if size > BYTES_MAX:
                raise TooMuch(f"the changes take more than {BYTES_MAX} bytes")
    return found


def tables_of(changeset: bytes) -> set[str]:
    """Return the tables that a changeset names, in lower case; none if it cannot be read."""
    try:
        return {change.name.lower() for change in apsw.Changeset.iter(changeset)}
    except (apsw.Error, UnicodeDecodeError):
        return set()


def columns_now(path: Path, names: Collection[str]) -> tuple[dict[str, tuple[str, ...]], Position]:
    """Return the columns of those of `names` that are tables in a document's file, and the position it stands at."""
    with closing(connect(path, readonly=True)) as db:
        db.execute("BEGIN")  # one state for both
        tables = Tables.of(db)
        return {name: tables.shape(name).columns for name in names if name in tables}, read_cursor(db).position


def _facts(entry: Entry) -> list[DocumentFact]:
    facts = [event.fact for event in decode_events(entry.record.json(), FACTS)]
    return [fact for fact in facts if isinstance(fact, DocumentFact)]
