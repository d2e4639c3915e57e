"""Run watched queries in a reader's thread: result, hash, and the tables that each depends on."""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from schemas.document import Statement
from schemas.ids import Position
from schemas.problems import Refusal


class Asked(NamedTuple):
    """What to evaluate. A result with the hash `known` need not be encoded."""

    statement: Statement
    max_rows: int | None
    known: str


class Evaluated(NamedTuple):
    """What a query answers; `tables` are those it reads, None if nobody can tell; `body` is empty if `known`."""

    hash: str
    body: bytes
    tables: frozenset[str] | None
    quick: bool


Evaluate = Callable[[str, Sequence[Asked]], Awaitable[tuple[Sequence[Evaluated | Refusal], Position]]]
"""`evaluate(db_id, asked)` answers in order and from one snapshot; it may leave off some of the last."""
