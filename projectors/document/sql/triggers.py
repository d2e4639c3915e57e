"""Triggers that no statement could ever fire: SQLite looks at what a trigger does only when something fires it."""

from collections.abc import Iterator

import apsw

from projectors.digest import quoted
from schemas.problems import SQL_NOT_ALLOWED, Problem, Refusal
from schemas.system_tables import is_system

_WRITES = frozenset({apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE})
_STORED = 0  # what `table_xinfo` calls hidden of a column that a statement may set


def inside(problem: Problem, action: int, by: str) -> Problem:
    """Say of a problem inside of which trigger, view or common table expression it is; only triggers write."""
    detail = f"{'in the trigger ' if action in _WRITES else 'inside of '}{by}: {problem.detail}"
    return problem.model_copy(update={"detail": detail, "error": detail})


def table_of(db: apsw.Connection, trigger: str) -> str | None:
    """Return the table or view that a trigger is on; None if it is gone."""
    found = db.execute(
        "SELECT tbl_name FROM main.sqlite_schema WHERE type = 'trigger' AND name = ? COLLATE NOCASE", (trigger,)
    ).get
    return None if found is None else str(found)


def firing(db: apsw.Connection, table: str) -> Iterator[str]:
    """Yield statements that fire every trigger on a table or view, for SQLite to look at and not to run."""
    target = f"main.{quoted(table)}"
    columns = db.execute("SELECT name, hidden FROM pragma_table_xinfo(?, 'main')", (table,)).fetchall()
    changes = ", ".join(f"{quoted(str(name))} = NULL" for name, hidden in columns if hidden == _STORED)
    yield f"EXPLAIN INSERT INTO {target} DEFAULT VALUES"
    yield f"EXPLAIN UPDATE {target} SET {changes}"
    yield f"EXPLAIN DELETE FROM {target}"


def never(problem: Problem, table: str) -> Refusal:
    """Return the refusal of a trigger on `table` that could never fire because of `problem`."""
    fix = problem.fix
    if problem.type != SQL_NOT_ALLOWED.uri and is_system(table):
        fix = (
            f"When Forge writes {table}, triggers may do what query.write allows; do the rest in a statement of yours."
        )
    why = f"{problem.detail}; every statement that fires it would be refused"
    return Refusal(SQL_NOT_ALLOWED.problem(why, fix=fix))
