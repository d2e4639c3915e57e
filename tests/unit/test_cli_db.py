"""What people type to `forge db` and `forge token`: moments, arguments, scripts, scopes."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.cli import moment
from forge.cli.db_history import change_text
from forge.cli.db_values import argument, arguments, result_json, result_text, statements
from forge.cli.moment import Expiry, Moment
from forge.client import Result
from forge.client.tokens import format_scope, parse_scope
from schemas.changes import Change
from schemas.ids import Position
from schemas.scopes import Scope


@pytest.fixture
def noon() -> Iterator[None]:
    """Let it be noon of a day, two hours ahead of UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Etc/GMT-2")
        time.tzset()
        patch.setattr(moment, "local_now", lambda: datetime(2026, 3, 4, 10, 0, tzinfo=UTC).astimezone())
        yield
    time.tzset()


@pytest.mark.usefixtures("noon")
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1.42", "1.42"),
        ("9:05", "2026-03-04T07:05:00.000000Z"),
        ("11:59:59", "2026-03-04T09:59:59.000000Z"),
        ("2026-01-31", "2026-01-30T22:00:00.000000Z"),
        ("2026-01-31 12:30", "2026-01-31T10:30:00.000000Z"),
        ("2026-01-31T12:30:00Z", "2026-01-31T12:30:00.000000Z"),
        ("2026-01-31T12:30:00.5-05:00", "2026-01-31T17:30:00.500000Z"),
        ("0500-01-01T00:00:00Z", "0500-01-01T00:00:00.000000Z"),
    ],
)
def test_a_moment_is_a_position_or_a_time_of_this_machine(text: str, meant: str) -> None:
    assert Moment().convert(text, None, None) == meant


@pytest.mark.usefixtures("noon")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("12:01", "still to come today"),
        ("yesterday", "is no moment"),
        ("25:00", "is no moment"),
        ("1.x", "no moment"),
        ("1.999999999999999999999", "is no moment"),
        ("9999-12-31T23:59:59-14:00", "is no moment"),
    ],
)
def test_what_is_no_moment_is_explained(text: str, why: str) -> None:
    with pytest.raises(click.BadParameter, match=why):
        Moment().convert(text, None, None)


@pytest.mark.usefixtures("noon")
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("30d", "2026-04-03T10:00:00.000000Z"),
        ("2w", "2026-03-18T10:00:00.000000Z"),
        ("1h30m", "2026-03-04T11:30:00.000000Z"),
        ("2026-12-31T00:00:00Z", "2026-12-31T00:00:00.000000Z"),
    ],
)
def test_an_expiry_is_a_while_or_a_moment(text: str, meant: str) -> None:
    assert Expiry().convert(text, None, None) == meant


@pytest.mark.parametrize("text", ["99999999999h", "9999-12-31T23:59:59-14:00", "soon"])
def test_what_is_no_expiry_is_explained(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no expiry"):
        Expiry().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("-1.5e3", -1500.0),
        ("9007199254740993", 9007199254740993),
        ("null", None),
        ("true", 1),
        ('"42"', "42"),
        ('{"$blob": "AAE="}', b"\x00\x01"),
        ("0042", "0042"),
        ("hello", "hello"),
        ("", ""),
        ("{a}", "{a}"),
        ('{"a": 1}', '{"a": 1}'),
        ("1.2.3", "1.2.3"),
    ],
)
def test_an_argument_is_a_value_if_it_looks_like_one_and_else_text(text: str, value: Any) -> None:
    read = argument(text)
    assert read == value
    assert type(read) is type(value)


def test_arguments_can_be_given_exactly() -> None:
    assert arguments((), '["1", 2, null]') == ["1", 2, None]
    assert arguments((), '{"a": {"$int": "9007199254740993"}}') == {"a": 9007199254740993}
    with pytest.raises(click.BadOptionUsage):
        arguments((), "3")
    with pytest.raises(click.UsageError):
        arguments(("1",), "[1]")


def test_a_script_is_cut_between_its_statements() -> None:
    trigger = "CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END;"
    first = "-- first; really\nCREATE TABLE t (a DEFAULT ';');"
    script = f"{first} {trigger}\n/* ; */ SELECT 'it''s;' ;\n;; SELECT 3 -- end;\n"
    assert statements(script) == [
        first,
        trigger,
        "/* ; */ SELECT 'it''s;' ;",
        "SELECT 3 -- end;",
    ]
    assert statements("  -- nothing\n/* at all */ ;") == []


@given(st.lists(st.sampled_from(["SELECT 1;", "SELECT ';';", "INSERT INTO t VALUES ('a;b');"]), max_size=8))
def test_every_statement_of_a_script_is_found_once(script: list[str]) -> None:
    assert statements("\n".join(script)) == script


def test_results_are_shown_as_tables_and_as_json() -> None:
    read = Result("read", ("a", "b"), [(1, None), (2**60, b"\x00\xff")], position=Position(1, 7))
    assert result_text(read).splitlines() == [
        "                  a  b",
        "                  1  NULL",
        f"{2**60}  x'00ff'",
    ]
    assert result_json(read)["rows"] == [[1, None], [{"$int": str(2**60)}, {"$blob": "AP8="}]]
    assert result_text(Result("write", rows_affected=1, position=Position(1, 8))) == "1 row changed at 1.8"
    assert result_text(Result("admin", rows_affected=2, position=Position(1, 8))) == "2 rows changed at 1.8"
    assert result_text(Result("admin", rows_affected=0, position=Position(1, 8))) == "done at 1.8"
    assert result_json(Result("admin", position=Position(1, 9)))["class"] == "admin"


def test_a_change_is_shown_row_by_row() -> None:
    rows = [
        {"op": "ddl", "sql": "CREATE TABLE t (a, b)"},
        {"op": "insert", "table": "t", "key": {"a": 1}, "old": None, "new": {"a": 1, "b": "x"}},
        {"op": "update", "table": "t", "key": {"a": 1}, "old": {"b": "x"}, "new": {"b": None}},
        {"op": "delete", "table": "t", "key": {"a": 1}, "old": {"a": 1, "b": None}, "new": None},
    ]
    change = Change.model_validate(
        {
            "position": "1.2",
            "event": "e/0",
            "time": "2026-01-02T03:04:05.000006Z",
            "principal": "root",
            "kind": "sql.executed",
            "changes": rows,
        }
    )
    assert change_text(change).splitlines() == [
        "1.2  2026-01-02T03:04:05Z  root",
        "  ddl     CREATE TABLE t (a, b)",
        "  insert  t  a=1, b='x'",
        "  update  t  a=1: b 'x' -> NULL",
        "  delete  t  a=1",
    ]


@pytest.mark.parametrize("text", ["query.read:notes", "query.write:team-*", "pub.publish:home:sensors/a:b"])
def test_a_scope_is_read_and_written_the_same(text: str) -> None:
    assert format_scope(parse_scope(text)) == text


def test_a_scope_without_a_document_is_explained() -> None:
    assert parse_scope("a.b:c:d") == Scope(action="a.b", db_id="c", resource_prefix="d")
    for text in ("query.read", "query.read:", ":notes"):
        with pytest.raises(ValueError, match="ACTION:DB"):
            parse_scope(text)
