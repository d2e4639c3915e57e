"""What a commit did to a document, row by row, decoded from the changesets of its events."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apsw
from pydantic_core import to_json

from events.envelope import Event
from projectors.document.system_rows import rows_of
from projectors.document.tables import ROWID
from schemas.document import ChangesetStep, DdlStep, DocumentFact, RowsStep, SqlExecuted
from schemas.facts import Fact
from schemas.ids import Position
from schemas.values import encode

PART_BYTES = 256 << 10  # of encoded rows in one item of the feed; one row more may be in it
RESERVED = "_forge"
_OPERATIONS = {apsw.SQLITE_INSERT: "insert", apsw.SQLITE_UPDATE: "update", apsw.SQLITE_DELETE: "delete"}

RowChange = dict[str, Any]
"""One row or schema change, as `schemas.changes` describes it."""
Stored = tuple[Any, ...]
"""The values of a row as SQLite has them; `apsw.no_change` where a changeset says nothing."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a reader wants: changes of these tables (lower case; none: of all), with rows or without.

    Schema changes are wanted always: they may change any table.
    """

    tables: frozenset[str] = frozenset()
    rows: bool = True

    def table(self, name: str) -> bool:
        """Say whether changes of a table are wanted."""
        lowered = name.lower()
        return not lowered.startswith(RESERVED) and (not self.tables or lowered in self.tables)

    def takes(self, fact: Fact) -> bool:
        """Say whether anything of a fact is wanted."""
        if not self.tables:
            return True
        return isinstance(fact, DocumentFact) and (fact.changes_schema or any(map(self.table, fact.touched)))


EVERYTHING = Selection()


def row_changes(fact: Fact, selection: Selection = EVERYTHING) -> Iterator[RowChange]:
    """Yield the changes that a fact made, in the order of its steps; one at a time is in memory."""
    if not isinstance(fact, DocumentFact):
        return
    if not fact.steps:
        yield from _system_rows(fact, selection)
    for step in fact.steps:
        match step:
            case DdlStep(sql=sql):
                yield {"op": "ddl", "sql": sql}
            case ChangesetStep(data=data):
                for change in apsw.Changeset.iter(data):
                    if selection.table(change.name):
                        yield _row_change(change, fact.tables)
            case RowsStep() if selection.table(step.table):
                for rowid, values in step.rows:
                    new = None if values is None else dict(zip(step.columns, values, strict=True))
                    op = "put" if new else "delete"
                    yield {"op": op, "table": step.table, "key": {ROWID: rowid}, "old": None, "new": new}


def _system_rows(fact: DocumentFact, selection: Selection) -> Iterator[RowChange]:
    for rows in rows_of(fact):
        for values in rows.values if selection.table(rows.table) else ():
            row = {column: encode(value) for column, value in zip(rows.columns, values, strict=True)}
            key = {column: row[column] for column in rows.columns[: rows.keys]}
            new: dict[str, Any] | None = row
            if rows.operation == "delete":
                new = None
            elif rows.operation == "update":
                new = {column: value for column, value in row.items() if column not in key}
            yield {"op": rows.operation, "table": rows.table, "key": key, "old": None, "new": new}


def _row_change(change: apsw.TableChange, tables: Mapping[str, tuple[str, ...]]) -> RowChange:
    said: RowChange = {"op": _OPERATIONS[change.opcode], "table": change.name}
    names = _columns(tables, change)
    try:
        old: Stored | None = change.old
        new: Stored | None = change.new
    except UnicodeDecodeError:
        return said | {"key": {}, "old": None, "new": None, "unreadable": True}
    keyed = new if old is None else old
    assert keyed is not None
    key = {names[n]: encode(keyed[n]) for n in sorted(change.pk_columns)}
    if old is not None and new is not None:  # an update's old row holds its key beside what changed
        old = tuple(now if now is apsw.no_change else before for before, now in zip(old, new, strict=True))
    return said | {"key": key, "old": _values(names, old), "new": _values(names, new)}


def _columns(tables: Mapping[str, tuple[str, ...]], change: apsw.TableChange) -> tuple[str, ...]:
    """Return the names of a change's columns: before columns were added in the same command it has fewer."""
    names = tables.get(change.name, ())[: change.column_count]
    return (*names, *(f"column{n + 1}" for n in range(len(names), change.column_count)))


def _values(names: tuple[str, ...], row: Stored | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {name: encode(value) for name, value in zip(names, row, strict=True) if value is not apsw.no_change}


def encode_changes(position: Position, event: Event, selection: Selection) -> Iterator[bytes]:
    """Yield the JSON items (`schemas.changes.Change`) of one event: one, or several if its rows are many."""
    fact = event.fact
    said: dict[str, Any] = {
        "position": str(position),
        "event": event.id,
        "time": event.time,
        "principal": event.principal,
        "kind": fact.TYPE.removeprefix("forge.doc."),
        "statements": fact.statements if isinstance(fact, SqlExecuted) else (),
        "tables": [name for name in fact.touched if selection.table(name)] if isinstance(fact, DocumentFact) else (),
    }
    if not selection.rows:
        yield to_json(said | {"part": 0, "more": False, "changes": None})
        return
    part, rows, size = 0, list[bytes](), 0
    for change in row_changes(fact, selection):
        if size >= PART_BYTES:
            yield _item(said, part, rows, more=True)
            part, rows, size = part + 1, [], 0
            said["statements"] = ()
        rows.append(to_json(change))
        size += len(rows[-1])
    yield _item(said, part, rows, more=False)


def _item(said: dict[str, Any], part: int, rows: list[bytes], *, more: bool) -> bytes:
    return b'%b,"changes":[%b]}' % (to_json(said | {"part": part, "more": more})[:-1], b",".join(rows))
