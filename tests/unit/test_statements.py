"""One statement of a user: arguments, results, bounds, what it counts, and which class it is of."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.classes import KnownClasses, NotARead, execute_read, execute_reads
from projectors.document.sql.results import Result, Results, lines_json
from projectors.document.sql.sandbox import configure_reader, configure_writer, guard_of
from projectors.document.sql.statements import execute, naming
from projectors.projection import connect, schema_sql
from schemas.document import Expectation, SqlClass, Statement
from schemas.problems import UNPROCESSABLE, Refusal
from schemas.values import decode, encode

BOUNDS = SqlBounds()
ALL: tuple[SqlClass, ...] = ("read", "write", "admin")
VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[apsw.Connection]:
    """The writer's connection to a document with one table."""
    writer = connect(tmp_path / "document.db")
    for _ in writer.execute("PRAGMA journal_mode=WAL"):
        pass
    writer.execute(schema_sql("projection"))
    writer.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body)")
    configure_writer(writer, BOUNDS)
    yield writer
    writer.close()


@pytest.fixture
def reader(db: apsw.Connection) -> Iterator[apsw.Connection]:
    """A reader's connection to the same document."""
    reading = connect(Path(db.filename), readonly=True)
    configure_reader(reading, BOUNDS)
    yield reading
    reading.close()


def run(db: apsw.Connection, sql: str, args: Any = (), *, bounds: SqlBounds = BOUNDS, **expect: int) -> Result:
    """Run a statement as somebody who may do everything."""
    given_args = args if isinstance(args, dict) else list(args)
    statement = Statement(sql=sql, args=given_args, expect=Expectation(**expect) if expect else None)
    guard = guard_of(db)
    with guard.running(ALL, time.monotonic() + 60):
        return execute(db, guard, statement, bounds)


def read(db: apsw.Connection, sql: str, args: Any = ()) -> Result:
    """Run a statement as a reader does."""
    return execute_read(db, Statement(sql=sql, args=list(args)), BOUNDS, time.monotonic() + 60)


def refused(db: apsw.Connection, sql: str, args: Any = (), **more: Any) -> tuple[int, str, str]:
    """Return status, last part of the type, and detail of the refusal of a statement."""
    with pytest.raises(Refusal) as refusal:
        run(db, sql, args, **more)
    problem = refusal.value.problem
    return problem.status, problem.type.rpartition(":")[2], problem.detail


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_every_value_survives_as_argument_and_as_result(values: list[Any]) -> None:
    """P2.1, P2.2, G-16: integers of any size, blobs, infinities and text come back as they went in."""
    db = apsw.Connection(":memory:")
    configure_writer(db, BOUNDS)
    columns = ", ".join(f"c{n}" for n in range(len(values)))
    marks = ", ".join("?" * len(values))
    run(db, f"CREATE TABLE kept ({columns})")
    sent = from_json(to_json([encode(value) for value in values]))

    inserted = run(db, f"INSERT INTO kept VALUES ({marks}) RETURNING *", sent)
    found = run(db, "SELECT * FROM kept")

    for result in (inserted, found):
        rows = from_json(result.json())["rows"]
        assert rows == result.answer()["rows"] or rows == [list(row) for row in result.answer()["rows"]]
        assert from_json(lines_json(result.rows)) == rows[0]
        back = [decode(value) for value in rows[0]]
        assert [(type(value), value) for value in back] == [(type(value), value) for value in values]
    db.close()


def test_arguments_keep_their_type(db: apsw.Connection) -> None:
    """P2.2, G-16: 42 is an integer, 42.0 a float, true and false are 1 and 0."""
    result = run(db, "SELECT typeof(?), typeof(?), ?, ?", [42, 42.0, True, False])

    assert result.rows == [("integer", "real", 1, 0)]


def test_arguments_come_by_position_or_by_name(db: apsw.Connection) -> None:
    """P2.2: an array fills parameters in order, whatever they are called; an object by their names."""
    assert run(db, "SELECT :a, @b, ?", [1, 2, 3]).rows == [(1, 2, 3)]
    assert run(db, "SELECT :a, @b, $c, :a", {"c": 3, "b": 2, "a": 1}).rows == [(1, 2, 3, 1)]
    assert run(db, "SELECT 1", {}).rows == [(1,)]


@pytest.mark.parametrize(
    ("sql", "args", "detail"),
    [
        ("SELECT ?, ?", [1], "takes 2 arguments, 1 came"),
        ("SELECT ?", [1, 2], "takes 1 argument, 2 came"),
        ("SELECT ? -- and no more", [1, 2], "takes 1 argument, 2 came"),
        ("SELECT ?; -- and no more", [1, 2], "takes 1 argument, 2 came"),
        ("SELECT 1", [1], "takes 0 arguments, 1 came"),
        ("SELECT ?", [], "takes 1 argument, 0 came"),
        ("SELECT :a, :b", {"a": 1}, "no argument is named b"),
        ("SELECT :a", {"a": 1, "z": 2}, "no parameter named z"),
        ("SELECT ?", {"a": 1}, "parameters without a name"),
        ("SELECT ?", [[1]], "args.0"),
        ("SELECT :a", {"a": {"$int": "x"}}, "args.a"),
        ("SELECT ?", [2**64], "64 bits"),
        ("SELECT ?", [{"$blob": "not base64"}], "args.0"),
        ("SELECT 1", [0] * 1001, "at most 1000 arguments"),
    ],
)
def test_arguments_that_do_not_fit_are_named(db: apsw.Connection, sql: str, args: Any, detail: str) -> None:
    """P2.2: more or fewer arguments than parameters are a 400 that says so."""
    status, slug, said = refused(db, sql, args)

    assert (status, slug) == (400, "invalid-arguments")
    assert detail in said


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'a;b'",
        "-- first\nSELECT 'a;b'",
        "/* ; */ SELECT 'a;b' ; ; -- end",
        "SELECT 'a;b' /* open",
        "SELECT 'a;b';\n\n/* SELECT 2; */",
        "  ;SELECT 'a;b'",
        "SELECT 'a;b'; /* 1 */ /* 2 */ -- 3",
    ],
)
def test_semicolons_in_literals_and_comments_around_are_fine(db: apsw.Connection, sql: str) -> None:
    """P2.2, G-17: SQLite decides where a statement ends."""
    assert run(db, sql).rows == [("a;b",)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; SELECT 2",
        "SELECT 1; garbage",
        "INSERT INTO t VALUES (1, 1); COMMIT",
        "SELECT 1;\xa0",
        "SELECT 1; /* */ DELETE FROM t -- */",
    ],
)
def test_a_second_statement_is_refused_before_the_first_runs(db: apsw.Connection, sql: str) -> None:
    """P2.2."""
    assert refused(db, sql)[:2] == (400, "invalid-sql")
    assert run(db, "SELECT count(*) FROM t").rows == [(0,)]


@pytest.mark.parametrize("sql", ["", "  ", "-- nothing", ";;", "/* nothing */ ;", "SELECT 1\0", "x" * (1 + (1 << 20))])
def test_what_is_no_statement_is_refused(db: apsw.Connection, sql: str) -> None:
    """P2.2, PR7."""
    assert refused(db, sql)[:2] == (400, "invalid-sql")


def test_effects_are_counted(db: apsw.Connection) -> None:
    """P2.1: rows that the statement itself changed; the id of the row that it inserted, if it inserted one."""
    run(db, "CREATE TABLE log (what)")
    run(db, "CREATE TRIGGER logged AFTER INSERT ON t BEGIN INSERT INTO log VALUES (1), (2), (3); END")

    inserted = run(db, "INSERT INTO t (id, body) VALUES (7, 'a'), (8, 'b')")
    updated = run(db, "UPDATE t SET body = 'c'")
    nothing = run(db, "UPDATE t SET body = 'c' WHERE id = 0")
    zero = run(db, "INSERT INTO t VALUES (0, 'zero')")
    made = run(db, "CREATE TABLE more (a)")
    found = run(db, "SELECT 1")
    explained = run(db, "EXPLAIN QUERY PLAN DELETE FROM t")
    deleted = run(db, "DELETE FROM t")

    assert (inserted.kind, inserted.rows_affected, inserted.last_insert_id) == ("write", 2, 8)
    assert (updated.rows_affected, updated.last_insert_id) == (2, None)
    assert (nothing.rows_affected, nothing.last_insert_id) == (0, None)
    assert zero.last_insert_id == 0
    assert (made.kind, made.rows_affected, made.last_insert_id) == ("admin", 0, None)
    assert (found.kind, found.rows_affected, found.last_insert_id) == ("read", 0, None)
    assert explained.rows_affected == 0
    assert deleted.rows_affected == 3


def test_answers_have_the_shape_of_their_class(db: apsw.Connection) -> None:
    """P2.1, G-17: rows of RETURNING are there; column names may repeat."""
    returned = run(db, "INSERT INTO t (body) VALUES ('a'), (x'00ff') RETURNING id, body AS id")
    empty = run(db, "DELETE FROM t WHERE id = 99 RETURNING id")
    found = run(db, "SELECT 1 AS a, 2 AS a")
    plain = run(db, "DELETE FROM t")

    assert from_json(returned.json()) == {
        "class": "write",
        "rows_affected": 2,
        "last_insert_id": 2,
        "columns": ["id", "id"],
        "rows": [[1, "a"], [2, {"$blob": "AP8="}]],
        "row_count": 2,
    }
    assert from_json(empty.json())["rows"] == []
    assert from_json(found.json()) == {
        "class": "read",
        "columns": ["a", "a"],
        "rows": [[1, 2]],
        "row_count": 1,
        "result_bytes": len("[[1,2]]"),
    }
    assert from_json(plain.json()) == {"class": "write", "rows_affected": 2, "last_insert_id": None}


NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT i FROM n"


def test_one_row_or_byte_too_many_is_refused(db: apsw.Connection) -> None:
    """P2.6, PR7: exactly the bound passes, one more is a 413 that names the way out."""
    assert len(run(db, NUMBERS, [5000]).rows) == 5000
    assert refused(db, NUMBERS, [5001]) == (413, "result-too-large", "the result has more than 5000 rows")
    text = BOUNDS.result_bytes - len('[[""]]')
    assert run(db, "SELECT ?", ["x" * text]).result_bytes == 1 << 20
    assert refused(db, "SELECT ?", ["x" * (text + 1)])[:2] == (413, "result-too-large")
    assert refused(db, "SELECT zeroblob(?)", [BOUNDS.result_bytes])[:2] == (413, "result-too-large")
    assert run(db, NUMBERS, [3], bounds=BOUNDS.narrowed(rows=3)).rows == [(1,), (2,), (3,)]
    assert refused(db, NUMBERS, [4], bounds=BOUNDS.narrowed(rows=3))[0] == 413


def test_results_are_bounded_together() -> None:
    """PR7: a batch of many large results is as bounded as one."""
    results = Results(BOUNDS.narrowed(rows=3))
    results.add(Result("read", ("a",), [(1,), (2,)]))

    with pytest.raises(Refusal, match="more than 3 rows"):
        results.add(Result("read", ("a",), [(1,), (2,)]))


def test_an_expectation_that_does_not_hold_is_refused(db: apsw.Connection) -> None:
    """Issue 3, batches: the caller says what a statement must do."""
    run(db, "INSERT INTO t VALUES (1, 'a')")

    assert run(db, "UPDATE t SET body = 'b' WHERE id = 1", rows_affected=1).rows_affected == 1
    status, slug, detail = refused(db, "UPDATE t SET body = 'b' WHERE id = 2", rows_affected=1)
    assert (status, slug, detail) == (409, "expectation-failed", "rows_affected is 0, 1 was expected")
    assert refused(db, "SELECT 1", row_count=0)[1] == "expectation-failed"


def test_text_that_is_not_utf8_is_a_problem_and_not_a_failure(db: apsw.Connection) -> None:
    """PR7."""
    assert refused(db, "SELECT CAST(x'ff' AS TEXT)")[:2] == (422, "unprocessable")


def test_a_refusal_says_which_statement_it_is_about() -> None:
    """Issue 3, batches."""
    with pytest.raises(Refusal) as refusal, naming(3):
        raise Refusal(UNPROCESSABLE.problem("so it is"), {"x": "y"})

    assert refusal.value.problem.detail == "statement 3: so it is"
    assert refusal.value.problem.field == "statements.3"
    assert refusal.value.headers == {"x": "y"}


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("INSERT INTO t VALUES (1, 1)", "write"),
        ("WITH gone AS (SELECT 1) DELETE FROM t RETURNING *", "write"),
        ("CREATE TABLE other (a)", "admin"),
        ("ALTER TABLE t ADD COLUMN more", "admin"),
        ("PRAGMA user_version = 3", "admin"),
        ("DROP TABLE t", "admin"),
        ("CREATE VIRTUAL TABLE words USING fts5 (a)", "admin"),
    ],
)
def test_a_reader_tells_the_class_of_what_it_may_not_run(reader: apsw.Connection, sql: str, kind: str) -> None:
    """P2.3 to P2.5: SQLite's authorizer decides the class, not the text; nothing runs, also not the second time."""
    for _ in range(3):
        with pytest.raises(NotARead) as found:
            read(reader, sql)
        assert found.value.kind == kind
    assert read(reader, "SELECT count(*) FROM t").rows == [(0,)]


@pytest.mark.parametrize("sql", ["BEGIN", "COMMIT", "SELECT epoch, idx FROM main._forge_position", "ATTACH 'x' AS x"])
def test_a_statement_of_ours_is_not_found_in_the_cache(reader: apsw.Connection, sql: str) -> None:
    """PR6, G-15: what we prepared for ourselves is not run for a user who sends the same text."""
    reader.execute("BEGIN", prepare_flags=apsw.SQLITE_PREPARE_PERSISTENT)
    reader.execute(
        "SELECT epoch, idx FROM main._forge_position", prepare_flags=apsw.SQLITE_PREPARE_PERSISTENT
    ).fetchall()
    reader.execute("COMMIT", prepare_flags=apsw.SQLITE_PREPARE_PERSISTENT)

    with pytest.raises(Refusal) as refusal:
        read(reader, sql)
    assert refusal.value.problem.status == 403


def test_several_reads_name_the_one_that_failed(reader: apsw.Connection) -> None:
    """Issue 3, batches."""
    statements = [Statement(sql="SELECT 1"), Statement(sql="SELECT missing")]

    with pytest.raises(Refusal, match=r"statement 1: no such column"):
        execute_reads(reader, statements, BOUNDS, numbered=True)


def test_known_classes_are_bounded() -> None:
    """PR7."""
    known = KnownClasses(2)
    for number in range(3):
        known.note("notes", str(number), "write")
    known.note("notes", "x" * 10_000, "write")

    assert [known.find("notes", str(number)) for number in range(3)] == [None, "write", "write"]
    assert known.find("notes", "x" * 10_000) is None


def test_infinities_are_told_apart(db: apsw.Connection) -> None:
    """P2.1: JSON has no infinity."""
    assert run(db, "SELECT 9e999, -9e999").answer()["rows"] == [[{"$real": "inf"}, {"$real": "-inf"}]]
    assert decode({"$real": "-inf"}) == -math.inf
