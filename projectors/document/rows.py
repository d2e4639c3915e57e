"""What facts other than SQL do to the system tables, as operations on rows: for the fold and the change feed."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import apsw

from projectors.digest import quoted
from schemas.values import SqlValue

Operation = Literal["insert", "put", "update", "delete"]
_TEXTUAL = ("text/", "application/json", "application/x-www-form-urlencoded", "application/xml")


class Rows(NamedTuple):
    """One operation on rows of a table; each of `values` begins with the `keys` first columns, which are the key.

    `put` inserts, or changes the row that has the key. `update` and `delete` pass over keys that are not there.
    """

    operation: Operation
    table: str
    columns: tuple[str, ...]
    values: Sequence[tuple[SqlValue, ...]]
    keys: int = 1


def apply_rows(db: apsw.Connection, rows: Sequence[Rows]) -> None:
    """Do it."""
    for one in rows:
        sql = _statement(one.operation, one.table, one.columns, one.keys)
        if len(one.values) == 1:
            db.execute(sql, one.values[0])
        else:
            db.executemany(sql, one.values)


@lru_cache(maxsize=64)
def _statement(operation: Operation, table: str, columns: tuple[str, ...], keys: int) -> str:
    name, key = f"main.{quoted(table)}", columns[:keys]
    found = " AND ".join(f"{quoted(column)} = ?{at}" for at, column in enumerate(key, start=1))
    told = ", ".join(f"{quoted(column)} = ?{at}" for at, column in enumerate(columns[keys:], start=keys + 1))
    if operation == "delete":
        return f"DELETE FROM {name} WHERE {found}"
    if operation == "update":
        return f"UPDATE {name} SET {told} WHERE {found}"
    marks = ", ".join(f"?{at}" for at in range(1, len(columns) + 1))
    insert = f"INSERT INTO {name} ({', '.join(map(quoted, columns))}) VALUES ({marks})"
    if operation == "insert":
        return insert
    return f"{insert} ON CONFLICT ({', '.join(map(quoted, key))}) DO UPDATE SET {told}"


def stored(payload: bytes, content_type: str | None) -> str | bytes:
    """Return a payload as SQL finds it: TEXT if its type is textual and its bytes are UTF-8, else a BLOB."""
    said = (content_type or "").lower()
    kind = said.partition(";")[0].strip()
    if not (kind.startswith(_TEXTUAL) or kind.endswith(("+json", "+xml"))) or b"\0" in payload:
        return payload
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload
