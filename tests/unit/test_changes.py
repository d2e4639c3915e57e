"""Row-level changes out of the effects that the log carries."""

import json
import math
from typing import Any

import apsw
import pytest

from events.envelope import Event
from projectors.document.history.changes import EVERYTHING, PART_BYTES, Selection, encode_changes, row_changes
from schemas.changes import Change
from schemas.document import ChangesetStep, DdlStep, Ran, RowsStep, SqlExecuted, StateStep
from schemas.ids import Position

TIME = "2026-11-20T10:15:30.000001Z"
SCHEMA = """
    CREATE TABLE t (id INTEGER PRIMARY KEY, a, b);
    CREATE TABLE plain (x, y);
    CREATE TABLE pair (p TEXT, q INT, v, PRIMARY KEY (q, p)) WITHOUT ROWID;
    CREATE TABLE _forge_own (k PRIMARY KEY)
"""
TABLES = {"t": ("id", "a", "b"), "plain": ("_rowid_", "x", "y"), "pair": ("p", "q", "v")}


@pytest.fixture
def db() -> Any:
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    yield connection
    connection.close()


def effects(db: apsw.Connection, *statements: str) -> ChangesetStep:
    session = apsw.Session(db, "main")
    session.config(apsw.SQLITE_SESSION_OBJCONFIG_ROWID, True)
    session.attach()
    for sql in statements:
        db.execute(sql)
    changeset = session.changeset()
    session.close()
    return ChangesetStep(data=changeset)


def items(fact: SqlExecuted, selection: Selection = EVERYTHING) -> list[dict[str, Any]]:
    """Return the encoded items of one event, each checked against its published schema."""
    encoded = list(encode_changes(Position(1, 7), Event("01ABC/0", "/x", TIME, "token:7", fact), selection))
    for raw in encoded:
        Change.model_validate_json(raw)
    return [json.loads(raw) for raw in encoded]


def test_inserts_updates_and_deletes_name_key_old_and_new(db: apsw.Connection) -> None:
    """Issue 3, deliverable 5: table, key, old, new; an update names only what changed."""
    db.execute("INSERT INTO t VALUES (1, 'one', 1.5), (2, x'00ff', 9007199254740993)")
    fact = SqlExecuted(
        steps=(
            effects(db, "UPDATE t SET a = 'uno' WHERE id = 1", "DELETE FROM t WHERE id = 2"),
            effects(db, "INSERT INTO t VALUES (3, NULL, -1e999)"),
        ),
        tables=TABLES,
    )

    assert sorted(row_changes(fact), key=lambda change: str(change["key"])) == [
        {"op": "update", "table": "t", "key": {"id": 1}, "old": {"a": "one"}, "new": {"a": "uno"}},
        {
            "op": "delete",
            "table": "t",
            "key": {"id": 2},
            "old": {"id": 2, "a": {"$blob": "AP8="}, "b": {"$int": "9007199254740993"}},
            "new": None,
        },
        {
            "op": "insert",
            "table": "t",
            "key": {"id": 3},
            "old": None,
            "new": {"id": 3, "a": None, "b": {"$real": "-inf"}},
        },
    ]
    assert math.isinf(db.execute("SELECT b FROM t WHERE id = 3").get)


def test_keys_are_what_tells_rows_apart(db: apsw.Connection) -> None:
    """Tables without a primary key, with several key columns, and rows whose key changed."""
    fact = SqlExecuted(
        steps=(
            effects(db, "INSERT INTO plain VALUES (5, NULL)", "INSERT INTO pair VALUES ('p', 1, 'v')"),
            effects(db, "UPDATE pair SET q = 2"),
        ),
        tables=TABLES,
    )

    found = [(change["op"], change["table"], change["key"]) for change in row_changes(fact)]

    assert sorted(found[:2]) == [("insert", "pair", {"p": "p", "q": 1}), ("insert", "plain", {"_rowid_": 1})]
    assert sorted(found[2:]) == [("delete", "pair", {"p": "p", "q": 1}), ("insert", "pair", {"p": "p", "q": 2})]


def test_columns_that_come_in_the_same_command_have_their_names(db: apsw.Connection) -> None:
    """An earlier changeset of the command has fewer columns; one whose names are not known is still readable."""
    before = effects(db, "INSERT INTO t VALUES (1, 2, 3)")
    db.execute("ALTER TABLE t ADD COLUMN c")
    after = effects(db, "INSERT INTO t VALUES (2, 3, 4, 5)")
    ddl = DdlStep(sql="ALTER TABLE t ADD COLUMN c")
    fact = SqlExecuted(steps=(before, ddl, after), tables={"t": ("id", "a", "b", "c")})

    first, schema, second = row_changes(fact)

    assert first["new"] == {"id": 1, "a": 2, "b": 3}
    assert schema == {"op": "ddl", "sql": "ALTER TABLE t ADD COLUMN c"}
    assert second["new"] == {"id": 2, "a": 3, "b": 4, "c": 5}
    assert next(row_changes(SqlExecuted(steps=(after,))))["key"] == {"column1": 2}


def test_reserved_tables_never_appear_and_others_by_choice(db: apsw.Connection) -> None:
    """DESIGN 5: tables whose names begin with `_forge` are invisible."""
    step = effects(
        db, "INSERT INTO _forge_own VALUES (1)", "INSERT INTO t VALUES (1, 2, 3)", "INSERT INTO plain VALUES (1, 2)"
    )
    fact = SqlExecuted(steps=(step,), tables={**TABLES, "_forge_own": ("k",)})

    assert {change["table"] for change in row_changes(fact)} == {"t", "plain"}
    assert {change["table"] for change in row_changes(fact, Selection(frozenset({"plain"})))} == {"plain"}
    assert items(fact)[0]["tables"] == ["t", "plain", "pair"]
    assert not Selection(frozenset({"_forge_own"})).takes(fact)
    assert Selection(frozenset({"elsewhere"})).takes(SqlExecuted(steps=(DdlStep(sql="DROP TABLE t"),)))
    assert not Selection(frozenset({"elsewhere"})).takes(fact)


def test_an_item_says_who_did_what_and_when(db: apsw.Connection) -> None:
    """Issue 3: `forge db log` tells who changed what, when; rows only if they are asked for."""
    fact = SqlExecuted(
        steps=(effects(db, "INSERT INTO t VALUES (1, 2, 3)"), StateStep(user_version=3)),
        tables={"t": TABLES["t"]},
        statements=(Ran(sql="INSERT INTO t VALUES (1, 2, 3)", times=1, arguments="ab"),),
    )

    (with_rows,) = items(fact)
    (without,) = items(fact, Selection(rows=False))

    assert len(with_rows.pop("changes")) == 1
    assert without.pop("changes") is None
    assert (
        with_rows
        == without
        == {
            "position": "1.7",
            "event": "01ABC/0",
            "time": TIME,
            "principal": "token:7",
            "kind": "sql.executed",
            "statements": [{"sql": "INSERT INTO t VALUES (1, 2, 3)", "times": 1, "arguments": "ab"}],
            "tables": ["t"],
            "part": 0,
            "more": False,
        }
    )


def test_many_rows_are_told_in_bounded_parts(db: apsw.Connection) -> None:
    """PR7: no frame grows with the number of rows of a commit."""
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
    rows = f"{numbers} SELECT i, 'row ' || i, i FROM n"
    fact = SqlExecuted(steps=(effects(db, f"INSERT INTO t {rows}"),), tables=TABLES, statements=(Ran(sql="many"),))
    event = Event("01ABC/0", "/x", TIME, "root", fact)

    sizes = [len(raw) for raw in encode_changes(Position(1, 7), event, EVERYTHING)]
    found = items(fact)

    assert len(sizes) > 3
    assert max(sizes) < PART_BYTES + 4096
    assert [one["part"] for one in found] == list(range(len(found)))
    assert [one["more"] for one in found] == [True] * (len(found) - 1) + [False]
    assert [bool(one["statements"]) for one in found] == [True] + [False] * (len(found) - 1)
    assert sorted(change["key"]["id"] for one in found for change in one["changes"]) == list(range(1, 20001))


def test_text_that_is_not_unicode_stops_nothing(db: apsw.Connection) -> None:
    """A row that JSON cannot hold is named as such; everything after it is told."""
    step = effects(db, "INSERT INTO t VALUES (1, CAST(x'ff' AS TEXT), 3)", "INSERT INTO t VALUES (2, 'fine', 3)")

    found = list(row_changes(SqlExecuted(steps=(step,), tables=TABLES)))

    assert sorted(change.get("unreadable", False) for change in found) == [False, True]
    assert items(SqlExecuted(steps=(step,), tables=TABLES))


def test_rows_that_are_known_only_as_they_are_now_are_puts() -> None:
    """Many changed rows of a table without a key come without their old values."""
    step = RowsStep(table="plain", columns=("x", "y"), rows=((3, ("a", {"$blob": "AAE="})), (4, None)))

    assert items(SqlExecuted(steps=(step,), tables=TABLES))[0]["changes"] == [
        {"op": "put", "table": "plain", "key": {"_rowid_": 3}, "old": None, "new": {"x": "a", "y": {"$blob": "AAE="}}},
        {"op": "delete", "table": "plain", "key": {"_rowid_": 4}, "old": None, "new": None},
    ]
