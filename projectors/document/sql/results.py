"""What a statement answered, and how rows look in JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from pydantic_core import to_json

from projectors.document.sql.bounds import SqlBounds
from schemas.document import SqlClass
from schemas.problems import RESULT_TOO_LARGE, Refusal
from schemas.values import EXACT_INTEGER_MAX, SqlValue, encode

Row = tuple[SqlValue, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One statement's outcome. `columns` is empty when the statement answers no rows; names may repeat.

    `rows_affected` counts rows that the statement itself changed, not its triggers. `last_insert_id` is None unless it
    inserted into a table with rowids. `result_bytes` is the length of the rows in JSON. `tables` are those it read.
    """

    kind: SqlClass
    columns: tuple[str, ...] = ()
    rows: Sequence[Row] = ()
    rows_affected: int = 0
    last_insert_id: int | None = None
    rows_json: bytes = field(default=b"[]", repr=False)
    tables: frozenset[str] = frozenset()

    @property
    def result_bytes(self) -> int:
        """The length of the rows in JSON, 0 if there can be none."""
        return len(self.rows_json) if self.columns else 0

    def answer(self) -> dict[str, Any]:
        """Return the answer as a JSON value, values encoded as in `schemas.values`."""
        said = self._own()
        if self.columns:
            said |= {"columns": self.columns, "rows": encoded(self.rows), "row_count": len(self.rows)}
        if self.kind == "read":
            said["result_bytes"] = self.result_bytes
        return said

    def json(self) -> bytes:
        """Return `answer()` as JSON text, without encoding the rows once more."""
        said = to_json(self._own())
        if self.columns:
            said = b'%b,"columns":%b,"rows":%b,"row_count":%d}' % (
                said[:-1],
                to_json(self.columns),
                self.rows_json,
                len(self.rows),
            )
        if self.kind == "read":
            said = b'%b,"result_bytes":%d}' % (said[:-1], self.result_bytes)
        return said

    def _own(self) -> dict[str, Any]:
        if self.kind == "read":
            return {"class": self.kind}
        return {"class": self.kind, "rows_affected": self.rows_affected, "last_insert_id": self.last_insert_id}


class Results:
    """The results of statements that are answered together: bounded together, too."""

    def __init__(self, bounds: SqlBounds) -> None:
        self._bounds = bounds
        self._rows = 0
        self._bytes = 0
        self.all: list[Result] = []

    def add(self, result: Result) -> None:
        """Take the next one; raise `Refusal` (413) if they are too large together."""
        self._rows += len(result.rows)
        self._bytes += result.result_bytes
        if self._rows > self._bounds.rows:
            raise too_large(f"{self._bounds.rows} rows")
        if self._bytes > self._bounds.result_bytes:
            raise too_large(f"{self._bounds.result_bytes} bytes")
        self.all.append(result)

    def answer(self) -> dict[str, Any]:
        """Return the answer to `RunSql`."""
        return {"results": [result.answer() for result in self.all]}

    def json(self) -> bytes:
        """Return `answer()` as JSON text."""
        return b'{"results":[%b]}' % b",".join(result.json() for result in self.all)


def too_large(bound: str) -> Refusal:
    """Return the refusal of a result past a bound."""
    return Refusal(RESULT_TOO_LARGE.problem(f"the result has more than {bound}"))


def row_bytes(row: Row) -> int:
    """Return about how long `row` is in JSON."""
    return len(to_json(row, bytes_mode="base64", inf_nan_mode="constants")) + 1


def rows_json(rows: Sequence[Row]) -> bytes:
    """Return `rows` as a JSON array of arrays."""
    return to_json(encoded(rows))


def lines_json(rows: Sequence[Row]) -> bytes:
    """Return one JSON array per line."""
    return b"".join(to_json(row) + b"\n" for row in encoded(rows))


def encoded(rows: Sequence[Row]) -> Sequence[Sequence[Any]]:
    """Return `rows` as JSON values: themselves, when JSON can say all their values."""
    kinds = set(map(type, chain.from_iterable(rows)))
    if bytes in kinds or (kinds & {int, float} and _tagged(rows)):
        return [[encode(value) for value in row] for row in rows]
    return rows


def _tagged(rows: Sequence[Row]) -> bool:
    numbers = [value for row in rows for value in row if type(value) is int or type(value) is float]
    # an infinity is beyond as well; a large finite float only costs the slower way
    return max(numbers) > EXACT_INTEGER_MAX or min(numbers) < -EXACT_INTEGER_MAX
