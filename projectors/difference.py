"""Where two SQLite files that should hold the same content first differ."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import apsw

from projectors.digest import SETTINGS, Row, Table, Value, rows, schema, setting, table_digest, tables

SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where content differs; a side that has no such object or row is None.

    A schema object or a setting has a name only. A row also has its key, and if both sides have the row,
    the column where they first differ. Text that is not UTF-8 is shown with backslashes.
    """

    where: Literal["schema", "setting", "table"]
    name: str
    key: Row = ()
    column: str = ""
    left: Value | Row = None
    right: Value | Row = None

    def __str__(self) -> str:
        place = f"{self.where} {self.name}"
        if self.key:
            place += f", key {_shown(self.key[0] if len(self.key) == 1 else self.key, 'NULL')}"
        if self.column:
            place += f", column {self.column}"
        absent = "NULL" if self.column else "nothing"
        return f"{place}: {_shown(self.left, absent)} in one, {_shown(self.right, absent)} in the other"


def first_difference(a: apsw.Connection, b: apsw.Connection) -> Difference | None:
    """Return the first difference in canonical order, None exactly if the digests are equal.

    Schema comes first, then settings, then tables by name and rows by key. Tables are compared by digest,
    and only one that differs is walked row by row, side by side.
    """
    with a, b:
        found = _schema_difference(a, b) or _setting_difference(a, b) or _table_difference(a, b)
    return found


def _schema_difference(a: apsw.Connection, b: apsw.Connection) -> Difference | None:
    left = {(name, kind): sql for name, kind, sql in schema(a)}
    right = {(name, kind): sql for name, kind, sql in schema(b)}
    for item in sorted(left.keys() | right.keys()):
        if left.get(item) != right.get(item):
            return Difference("schema", item[0], left=left.get(item), right=right.get(item))
    return None


def _setting_difference(a: apsw.Connection, b: apsw.Connection) -> Difference | None:
    for name in SETTINGS:
        left, right = setting(a, name), setting(b, name)
        if left != right:
            return Difference("setting", name, left=left, right=right)
    return None


def _table_difference(a: apsw.Connection, b: apsw.Connection) -> Difference | None:
    left = {table.name: table for table in tables(a)}
    right = {table.name: table for table in tables(b)}
    for name in sorted(left.keys() | right.keys()):
        table = left.get(name) or right[name]
        # Schemas are equal here, so only the AUTOINCREMENT counters can be on one side alone.
        in_a = rows(a, table, text_as_hex=True) if name in left else iter(())
        in_b = rows(b, table, text_as_hex=True) if name in right else iter(())
        if name in left and name in right and table_digest(a, table) == table_digest(b, table):
            continue
        if found := _row_difference(table, in_a, in_b):
            return found
    return None


def _row_difference(table: Table, in_a: Iterator[Row], in_b: Iterator[Row]) -> Difference | None:
    left, right = next(in_a, None), next(in_b, None)
    while left is not None or right is not None:
        if left is None or (right is not None and _rank(table, right) < _rank(table, left)):
            assert right is not None
            return Difference("table", table.name, _key(table, right), right=_readable(right))
        if right is None or _rank(table, left) < _rank(table, right):
            return Difference("table", table.name, _key(table, left), left=_readable(left))
        for n, column in enumerate(table.columns):
            if _bits(left[n]) != _bits(right[n]):
                was, now = _readable((left[n], right[n]))
                return Difference("table", table.name, _key(table, left), column, was, now)
        left, right = next(in_a, None), next(in_b, None)
    return None


def _rank(table: Table, row: Row) -> tuple[tuple[int, Value, bool], ...]:
    """Return what sorts rows in Python as `Table.select` sorts them in SQL."""
    order = [_value_rank(row[n], typed=False) for n in table.key]
    if (not table.distinct and None in [row[n] for n in table.key]) or not table.key:
        order += [_value_rank(value, typed=True) for value in row]
    return tuple(order)


def _value_rank(value: Value, *, typed: bool) -> tuple[int, Value, bool]:
    if value is None:
        return 0, 0, False
    if isinstance(value, int | float):
        return 1, value, typed and isinstance(value, float)
    return (2 if isinstance(value, str) else 3), value, False


def _bits(value: Value) -> tuple[type, Value]:
    """Return what tells apart all that a digest tells apart: 1 and 1.0, 0.0 and -0.0."""
    return type(value), value.hex() if isinstance(value, float) else value


def _key(table: Table, row: Row) -> Row:
    return _readable(tuple(row[n] for n in table.key) or row)


def _readable(row: Row) -> Row:
    return tuple(bytes.fromhex(v).decode(errors="backslashreplace") if isinstance(v, str) else v for v in row)


def _shown(value: Value | Row, none: str) -> str:
    text = none if value is None else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
