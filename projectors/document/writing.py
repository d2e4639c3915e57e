"""Writing what a fact other than SQL says, while it is decided, and what triggers and foreign keys make of it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import apsw

from projectors.digest import quoted
from projectors.document.capture import Capture
from projectors.document.replay import note_progress
from projectors.document.rows import Rows, apply_rows
from projectors.document.sql.sandbox import explain, guard_of
from projectors.document.system_rows import rows_of
from projectors.document.tables import Tables
from schemas.document import DocumentFact
from schemas.problems import CONSTRAINT, FORBIDDEN, INVALID_SQL, SQL_NOT_ALLOWED, Refusal

F = TypeVar("F", bound=DocumentFact)
_OF_TRIGGERS = {SQL_NOT_ALLOWED.uri: SQL_NOT_ALLOWED, FORBIDDEN.uri: FORBIDDEN, INVALID_SQL.uri: CONSTRAINT}
_FIX = "Drop it or mend it: `SELECT name, sql FROM sqlite_schema` shows it."


def write(db: apsw.Connection, fact: F) -> F:
    """Bring the document to where folding `fact` would; return the fact that says all of it.

    Raise `Refusal`, with nothing changed, if a constraint or trigger of the user forbids it.
    """
    rows = rows_of(fact)
    guard = guard_of(db)
    if not Tables.of(db).react(fact.touched):
        with nullcontext() if _single(rows) else _undone(db):
            _explained(db, rows, limited=False)
            note_progress(db, fact)
        return fact
    with Capture(db) as capture:
        with guard.limited(time.monotonic() + guard.seconds):
            _explained(db, rows, limited=True)
        _require_written(db, rows)
        capture.finish()
        note_progress(db, fact)
    return fact.model_copy(update={"steps": tuple(capture.steps), "tables": capture.tables})


def _single(rows: Sequence[Rows]) -> bool:
    """Say whether it is one statement for one row, which leaves nothing behind when it fails."""
    return len(rows) == 1 and len(rows[0].values) == 1


def _explained(db: apsw.Connection, rows: Sequence[Rows], *, limited: bool) -> None:
    try:
        apply_rows(db, rows)
    except apsw.Error as error:
        guard = guard_of(db)
        if not limited:
            guard.forget()
        raise _of_triggers(explain(error, guard), rows) from error


def _of_triggers(refusal: Refusal, rows: Sequence[Rows]) -> Refusal:
    """Tell whoever has written no SQL where the SQL is that fails."""
    problem = refusal.problem
    if problem.type not in _OF_TRIGGERS:
        return refusal
    tables = ", ".join(dict.fromkeys(one.table for one in rows))
    why = f"a trigger, index or foreign key on {tables} does not work: {problem.detail}"
    return Refusal(_OF_TRIGGERS[problem.type].problem(why, fix=_FIX))


def _require_written(db: apsw.Connection, rows: Sequence[Rows]) -> None:
    """Refuse if a trigger kept a row as it was without a word, as `RAISE(IGNORE)` does: what is answered must be so."""
    for one in rows:
        key = _all_equal(one.columns[: one.keys])
        same = _all_equal(one.columns)
        found = f"EXISTS (SELECT 1 FROM main.{quoted(one.table)} WHERE"
        query = f"SELECT {found} {key}), {found} {same})"
        for values in one.values:
            there, as_wanted = db.execute(query, (*values[: one.keys], *values)).get
            if there if one.operation == "delete" else not as_wanted and (there or one.operation != "update"):
                raise Refusal(CONSTRAINT.problem(f"a trigger on {one.table} kept its rows as they were"))


def _all_equal(columns: Sequence[str]) -> str:
    return " AND ".join(f"{quoted(column)} IS ?" for column in columns)


@contextmanager
def _undone(db: apsw.Connection) -> Iterator[None]:
    """Undo what happens inside if it fails."""
    db.execute("SAVEPOINT written")
    try:
        yield
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK TO written")
            db.execute("RELEASE written")
        raise
    db.execute("RELEASE written")
