"""What sessions of SQLite do not tell, so that documents record it. When SQLite is mended, a test here fails."""

from collections.abc import Callable

import apsw
import pytest


def recorded(db: apsw.Connection, change: Callable[[], object]) -> bytes:
    """Return the changeset of what `change` does."""
    session = apsw.Session(db, "main")
    session.config(apsw.SQLITE_SESSION_OBJCONFIG_ROWID, True)
    session.attach()
    try:
        change()
        return session.changeset()
    finally:
        session.close()


def insert_and_update(db: apsw.Connection, rows: int) -> None:
    """Change each of so many rows twice."""
    db.executemany("INSERT INTO t (a) VALUES (?)", [(0,)] * rows)
    db.execute("UPDATE t SET a = 1")


@pytest.mark.parametrize(
    ("table", "rows", "told_once"),
    [
        ("CREATE TABLE t (a)", 127, True),
        ("CREATE TABLE t (a)", 128, False),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, a)", 1000, True),
    ],
)
def test_many_changed_rows_of_a_table_without_a_key_are_told_twice(table: str, rows: int, told_once: bool) -> None:
    """docs/decisions/tables-without-a-key.md"""
    db = apsw.Connection(":memory:")
    db.execute(table)
    changes = list(apsw.Changeset.iter(recorded(db, lambda: insert_and_update(db, rows))))
    assert (len(changes) == rows) is told_once
    db.close()


def test_a_row_whose_key_is_null_is_not_told() -> None:
    """docs/decisions/null-keys.md"""
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE t (k TEXT PRIMARY KEY)")
    assert recorded(db, lambda: db.execute("INSERT INTO t VALUES (NULL)")) == b""
    db.close()


def test_rowids_beside_another_key_are_not_told() -> None:
    """docs/decisions/rowids-beside-a-key.md"""
    here, copy = apsw.Connection(":memory:"), apsw.Connection(":memory:")
    for db in (here, copy):
        db.execute("CREATE TABLE t (k TEXT PRIMARY KEY)")
    apsw.Changeset.apply(recorded(here, lambda: here.execute("INSERT INTO t (rowid, k) VALUES (7, 'a')")), copy)
    rowids = [db.execute("SELECT rowid FROM t").get for db in (here, copy)]
    assert rowids == [7, 1]
    for db in (here, copy):
        db.close()
