"""What a node answers about a document, with values as Python has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from schemas.ids import Position
from schemas.values import SqlValue, decode

Row = tuple[SqlValue, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What one statement did. `position` is where the document stood after it."""

    kind: str
    columns: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    rows_affected: int | None = None
    last_insert_id: int | None = None
    position: Position | None = None

    @classmethod
    def read(cls, body: Mapping[str, Any], position: Position | None = None) -> Self:
        """Read the JSON of one result; raise `KeyError`, `ValueError`."""
        inserted = body.get("last_insert_id")
        return cls(
            kind=body["class"],
            columns=tuple(body.get("columns") or ()),
            rows=[row_of(row) for row in body.get("rows") or ()],
            rows_affected=body.get("rows_affected"),
            last_insert_id=None if inserted is None else _integer(inserted),
            position=position,
        )

    @property
    def scalar(self) -> SqlValue:
        """The first value of the first row, None if there is none."""
        return self.rows[0][0] if self.rows and self.rows[0] else None

    def dicts(self) -> list[dict[str, SqlValue]]:
        """Return the rows by column name; of columns with one name the last wins."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class Watched:
    """The result of a watched query as it was at `position`; equal results have equal hashes."""

    position: Position
    columns: tuple[str, ...]
    rows: list[Row]
    result_hash: str

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Read the JSON of a `snapshot` or `update`; raise `KeyError`, `ValueError`."""
        rows = [row_of(row) for row in body["rows"]]
        return cls(Position.parse(body["position"]), tuple(body["columns"]), rows, body["result_hash"])


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of pushed changes; `rebased` is the changeset that fits onto the node's state, if asked for."""

    applied: int
    omitted: int
    replaced: int
    rebased: bytes | None
    position: Position | None


def row_of(row: Sequence[Any]) -> Row:
    """Return a row of JSON values as SQL values."""
    return tuple(map(decode, row))


def _integer(value: Any) -> int:
    number = decode(value)
    if not isinstance(number, int):
        raise ValueError(f"not an integer: {value!r}")
    return number
