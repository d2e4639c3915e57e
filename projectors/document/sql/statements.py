"""One SQL statement of a user, run on a guarded connection: arguments bound, result bounded, effects counted."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import apsw

from projectors.document.sql.arguments import bind, require_used, why_unbound
from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.results import Result, Row, row_bytes, rows_json, too_large
from projectors.document.sql.sandbox import Guard, explain
from schemas.document import SqlClass, Statement
from schemas.problems import (
    EXPECTATION_FAILED,
    INVALID_ARGUMENTS,
    INVALID_SQL,
    Refusal,
)

_NOTHING = re.compile(r"(?>[ \t\n\f\r;]|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*+", re.DOTALL)
SQL_ERRORS = (apsw.Error, UnicodeDecodeError, MemoryError)
_NO_ROWID = -(2**63)
"""No statement inserts a row with this id but one that is made to."""


class SchemaWatch(Protocol):
    """Who wants to know of statements that change the schema; `named` are (action, object) as the guard saw them."""

    def before_ddl(self, named: Sequence[tuple[str, str]]) -> None: ...
    def after_ddl(self, sql: str, named: Sequence[tuple[str, str]]) -> None: ...


class Prepared(Exception):
    """A statement of this `kind` was prepared, and not run."""

    def __init__(self, kind: SqlClass) -> None:
        super().__init__(kind)
        self.kind = kind


class Running:
    """A statement that has begun. Take its rows in the guard's mode that it was begun in; `close` it in any case."""

    __slots__ = ("_cursor", "_guard", "columns", "ddl", "kind", "sql")

    def __init__(self, cursor: apsw.Cursor, guard: Guard) -> None:
        self._cursor = cursor
        self._guard = guard
        self.sql = ""
        self.kind: SqlClass = "read"
        self.columns: tuple[str, ...] = ()
        self.ddl: Sequence[tuple[str, str]] = ()

    def collect(self, bounds: SqlBounds) -> list[Row]:
        """Return all rows; raise `Refusal` (413) past a bound."""
        rows: list[Row] = []
        size_bytes = 1
        try:
            for row in self._cursor:
                size_bytes += row_bytes(row)
                if len(rows) == bounds.rows:
                    raise too_large(f"{bounds.rows} rows")
                if size_bytes > bounds.result_bytes:
                    raise too_large(f"{bounds.result_bytes} bytes")
                rows.append(row)
        except SQL_ERRORS as error:
            raise explain(error, self._guard) from error
        return rows

    def take(self, rows_max: int, bytes_max: int) -> list[Row]:
        """Return the next rows, fewer than `rows_max` when they take `bytes_max` or there are no more."""
        rows: list[Row] = []
        size_bytes = 0
        try:
            for row in self._cursor:
                rows.append(row)
                size_bytes += row_bytes(row)
                if len(rows) == rows_max or size_bytes >= bytes_max:
                    break
        except SQL_ERRORS as error:
            raise explain(error, self._guard) from error
        return rows

    def close(self) -> None:
        """End the statement."""
        self._cursor.close(True)


def execute(
    db: apsw.Connection,
    guard: Guard,
    statement: Statement,
    bounds: SqlBounds,
    *,
    can_cache: bool = False,
    capture: SchemaWatch | None = None,
) -> Result:
    """Run exactly one statement to its end, while `guard` is in a user mode; return what came of it.

    `can_cache`: the connection is never in another mode.
    `capture` is told about a change of the schema before and after it, in the guard's trusted mode.
    Raise `Refusal`: the statement's own mistakes, what the guard forbids, a bound, an expectation that does not hold.
    Errors of the disk are left as they are. A write that raises may have happened in part: the caller undoes it.
    """
    changes = db.total_changes()
    db.set_last_insert_rowid(_NO_ROWID)
    running = begin(db, guard, statement, bounds, can_cache=can_cache, capture=capture)
    try:
        rows = running.collect(bounds)
    finally:
        running.close()
    wrote = running.kind != "read" and not running.ddl  # rows: deleting some of them needs the class admin
    inserted = db.last_insert_rowid() if wrote else _NO_ROWID
    result = Result(
        kind=running.kind,
        columns=running.columns,
        rows=rows,
        rows_affected=db.changes() if wrote and db.total_changes() != changes else 0,
        last_insert_id=None if inserted == _NO_ROWID else inserted,
        rows_json=_bounded(rows_json(rows), bounds),
        tables=frozenset(guard.tables),
    )
    if capture is not None and running.ddl:
        try:
            with guard.trusted():
                capture.after_ddl(running.sql, running.ddl)
        except apsw.InterruptError as error:  # the time of the statement is that of its capture too
            raise explain(error, guard) from error
    _expect(statement, result)
    return result


def begin(
    db: apsw.Connection,
    guard: Guard,
    statement: Statement,
    bounds: SqlBounds,
    *,
    can_cache: bool = False,
    only_prepare: bool = False,
    capture: SchemaWatch | None = None,
) -> Running:
    """Prepare and begin a statement as `execute` does; the caller takes its rows. `only_prepare`: raise `Prepared`."""
    arguments = bind(statement, bounds)
    cursor = db.cursor()
    running = Running(cursor, guard)

    def prepared(_: apsw.Cursor, sql: str, __: Any) -> bool:
        """Look at the statement before its first step."""
        if running.sql:
            return True  # a comment that follows
        _require_one(cursor, statement.sql[len(sql) :])
        require_used(cursor, arguments)
        running.sql = sql
        running.kind = guard.kind
        if only_prepare:
            raise Prepared(running.kind)
        running.columns = tuple(column[0] for column in cursor.get_description())
        running.ddl = tuple(guard.ddl)
        if capture is not None and running.ddl:
            with guard.trusted():
                capture.before_ddl(running.ddl)
        return True

    cursor.exec_trace = prepared
    try:
        cursor.execute(statement.sql, arguments, can_cache=can_cache)
    except (apsw.BindingsError, KeyError) as error:
        cursor.close(True)
        raise Refusal(INVALID_ARGUMENTS.problem(why_unbound(error), field="args")) from error
    except SQL_ERRORS as error:
        cursor.close(True)
        raise explain(error, guard) from error
    except BaseException:
        cursor.close(True)
        raise
    return running


@contextmanager
def naming(index: int, of: int | None = None) -> Iterator[None]:
    """Say in a refusal which statement it is about, unless it is one `of` one."""
    try:
        yield
    except Refusal as refusal:
        if of == 1:
            raise
        said = refusal.problem
        detail = f"statement {index}: {said.detail}"
        problem = said.model_copy(update={"detail": detail, "error": detail, "field": f"statements.{index}"})
        raise Refusal(problem, refusal.headers) from refusal


def _require_one(cursor: apsw.Cursor, rest: str) -> None:
    if not cursor.has_vdbe:
        raise Refusal(INVALID_SQL.problem("there is no statement", field="sql"))
    if rest and not _NOTHING.fullmatch(rest):
        why = f"there is more than one statement; the second begins with {rest.lstrip()[:40]!r}"
        fix = "Send one statement, or several to `query/batch`."
        raise Refusal(INVALID_SQL.problem(why, fix=fix, field="sql"))


def _bounded(encoded: bytes, bounds: SqlBounds) -> bytes:
    if len(encoded) > bounds.result_bytes:
        raise too_large(f"{bounds.result_bytes} bytes")
    return encoded


def _expect(statement: Statement, result: Result) -> None:
    if (expect := statement.expect) is None:
        return
    for what, expected, found in (
        ("rows_affected", expect.rows_affected, result.rows_affected),
        ("row_count", expect.row_count, len(result.rows)),
    ):
        if expected is not None and expected != found:
            raise Refusal(EXPECTATION_FAILED.problem(f"{what} is {found}, {expected} was expected", field="expect"))
