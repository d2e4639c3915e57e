"""The fold of documents: repeats recorded steps exactly, evaluating no expression of the user's statements again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count

import apsw

from events.envelope import Event
from projectors.digest import SETTINGS, quoted
from projectors.document.rows import Rows, apply_rows
from projectors.document.system_rows import rows_of
from projectors.document.tables import Tables, free_rowid
from schemas.document import (
    ChangesetStep,
    ContentCopied,
    DdlStep,
    DocumentFact,
    RowidsStep,
    RowsStep,
    StateStep,
    Step,
    SystemMigrated,
)
from schemas.messages import MessagesPruned, MessagesPublished
from schemas.values import SqlValue, decode
from schemas.webhooks import WebhookReceived

FOLD_VERSION = 1
_OFF = (
    apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER,  # what triggers and foreign keys did is among the steps
    apsw.SQLITE_DBCONFIG_ENABLE_FKEY,
    apsw.SQLITE_DBCONFIG_DEFENSIVE,  # changes of FTS5's own tables are repeated in them
)

_COUNT_AGAIN = """
    UPDATE _forge_document SET
    last_message_id = max(
        ifnull((SELECT max(id) FROM main.messages), 0), ifnull((SELECT max(id) FROM main.retained_messages), 0)
    ),
    message_bytes = ifnull((SELECT sum(octet_length(payload)) FROM main.messages), 0),
    last_webhook_id = ifnull((SELECT max(id) FROM main.webhook_inbox), 0)
"""
"""A clone goes on counting after what it took over."""


class Divergence(Exception):
    """A recorded change does not fit the rows that are there: this copy is not what the log says."""


def apply(db: apsw.Connection, events: Sequence[Event]) -> None:
    """Fold events. Raise `Divergence`, and leave the transaction to the caller."""
    with as_recorded(db):
        for event in events:
            fact = event.fact
            assert isinstance(fact, DocumentFact)
            apply_fact(db, fact)


def apply_fact(db: apsw.Connection, fact: DocumentFact) -> None:
    """Repeat what a fact says; the caller has called `as_recorded`."""
    if fact.steps:
        apply_steps(db, fact.steps)
    elif rows := rows_of(fact):
        _apply_rows_of(db, rows)
    note_progress(db, fact)


@contextmanager
def as_recorded(db: apsw.Connection) -> Iterator[None]:
    """Let changes have no effects of their own inside."""
    before = [(option, db.config(option, -1)) for option in _OFF]
    for option, _ in before:
        db.config(option, 0)
    try:
        yield
        if Tables.of(db).virtual:  # FTS5 remembers what its index looked like, and would write over what came since
            db.execute("PRAGMA writable_schema = RESET").fetchall()
    finally:
        for option, value in before:
            db.config(option, value)


def apply_steps(db: apsw.Connection, steps: Sequence[Step]) -> None:
    """Repeat steps in their order; the caller has called `as_recorded`."""
    for step in steps:
        match step:
            case ChangesetStep():
                _apply_changeset(db, step.data)
            case DdlStep():
                db.execute(step.sql, can_cache=False).fetchall()
            case RowsStep():
                _apply_rows(db, step)
            case RowidsStep():
                _apply_rowids(db, step)
            case StateStep():
                _apply_state(db, step)


def note_progress(db: apsw.Connection, fact: DocumentFact) -> None:
    """Keep what the document has to know of its own history."""
    match fact:
        case SystemMigrated():
            db.execute("UPDATE _forge_document SET system_version = ?", (fact.version,))
        case ContentCopied():
            db.execute(
                "UPDATE _forge_document SET source = ?, source_position = ?, next_part = ?, copied = ?,"
                " system_version = ?",
                (fact.source, fact.source_position, fact.part + 1, int(fact.last), fact.system_version),
            )
            if fact.last and fact.system_version:
                db.execute(_COUNT_AGAIN)
        case MessagesPublished():
            size = sum(len(message.payload) for message in fact.messages)
            last = fact.first_id + len(fact.messages) - 1
            counted = "UPDATE _forge_document SET last_message_id = ?, message_bytes = message_bytes + ?"
            db.execute(counted, (last, size))
        case MessagesPruned():
            db.execute("UPDATE _forge_document SET message_bytes = message_bytes - ?", (fact.size_bytes,))
        case WebhookReceived():
            db.execute("UPDATE _forge_document SET last_webhook_id = ?", (fact.id,))


def _apply_rows_of(db: apsw.Connection, rows: Sequence[Rows]) -> None:
    try:
        apply_rows(db, rows)
    except apsw.ConstraintError as error:
        raise Divergence(str(error)) from error


def _apply_changeset(db: apsw.Connection, changeset: bytes) -> None:
    conflicts: list[str] = []

    def conflict(reason: int, change: apsw.TableChange | None) -> int:
        where = f"{change.op} in {change.name}" if change else "a foreign key"
        conflicts.append(f"{apsw.mapping_session_conflict[reason]} at {where}")
        return int(apsw.SQLITE_CHANGESET_ABORT)

    try:
        apsw.Changeset.apply(changeset, db, conflict=conflict)
    except (apsw.AbortError, apsw.ConstraintError) as error:
        raise Divergence("; ".join(conflicts) or str(error)) from error


def _apply_rows(db: apsw.Connection, step: RowsStep) -> None:
    name, rowid = f"main.{quoted(step.table)}", free_rowid(Tables.of(db).shape(step.table))
    db.executemany(f"DELETE FROM {name} WHERE {rowid} = ?", ((number,) for number, _ in step.rows))
    columns = ", ".join((rowid, *map(quoted, step.columns)))
    marks = ", ".join("?" * (1 + len(step.columns)))
    rows = ((number, *map(decode, values)) for number, values in step.rows if values is not None)
    db.executemany(f"INSERT INTO {name} ({columns}) VALUES ({marks})", rows)


def _apply_rowids(db: apsw.Connection, step: RowidsStep) -> None:
    """Give rows the rowids that they had; in two rounds, as they may have swapped them."""
    shape = Tables.of(db).shape(step.table)
    rowid, name = free_rowid(shape), f"main.{quoted(shape.name)}"
    key = " AND ".join(f"{quoted(column)} = ?" for column in shape.key)
    wrong: list[tuple[int, int, tuple[SqlValue, ...]]] = []
    for wanted, *told in step.rows:
        values = tuple(map(decode, told))
        found = db.execute(f"SELECT {rowid} FROM {name} WHERE {key}", values).fetchone()
        if found is None:
            raise Divergence(f"{step.table} has no row {values!r}")
        if found[0] != wanted:
            wrong.append((found[0], wanted, values))
    move = f"UPDATE {name} SET {rowid} = ? WHERE {rowid} = ?"
    taken = f"SELECT EXISTS (SELECT 1 FROM {name} WHERE {rowid} = ?)"
    kept = {wanted for _, wanted, _ in wrong}
    free = (number for number in count(-1, -1) if number not in kept and not db.execute(taken, (number,)).get)
    aside = [(next(free), found, wanted) for found, wanted, _ in wrong]
    db.executemany(move, ((place, found) for place, found, _ in aside))
    db.executemany(move, ((wanted, place) for place, _, wanted in aside))


def _apply_state(db: apsw.Connection, step: StateStep) -> None:
    for name in SETTINGS:
        if (value := getattr(step, name)) is not None:
            db.pragma(name, value)
    for table, counter in (step.sequences or {}).items():
        db.execute("DELETE FROM main.sqlite_sequence WHERE name = ?", (table,))
        for value in counter:
            db.execute("INSERT INTO main.sqlite_sequence (name, seq) VALUES (?, ?)", (table, decode(value)))
