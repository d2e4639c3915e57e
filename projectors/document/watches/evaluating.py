"""Watched queries in a reader's thread: results, their hashes, and the tables that they depend on."""

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from pydantic_core import to_json

from projectors.document.reads.reader import Reader
from projectors.document.reads.reading import DocumentReaders
from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.permissions import CLASSES
from projectors.document.sql.results import Row, rows_json
from projectors.document.sql.sandbox import guard_of
from projectors.document.sql.statements import Prepared, begin
from projectors.document.watches.dependencies import Dependencies
from projectors.document.watches.result_hash import result_hash
from schemas.document import Statement
from schemas.ids import Position
from schemas.problems import INVALID_SQL, RESULT_TOO_LARGE, Refusal

QUICK_S = 0.002
TURN_S = 0.05  # then the rest of those that are evaluated together waits for another turn


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
"""`evaluate(db_id, asked)` answers in order and from one state; it may leave off some of the last."""


class Evaluator:
    """Evaluates on the readers of a node's documents."""

    def __init__(self, readers: DocumentReaders) -> None:
        self._readers = readers
        self._dependencies = Dependencies()

    async def check(self, db_id: str, statement: Statement) -> None:
        """Raise `Refusal` (400) unless `statement` can be run and only reads; it is not run."""
        await self._readers.run(db_id, partial(_check, statement=statement, bounds=self._readers.bounds))

    async def evaluate(self, db_id: str, asked: Sequence[Asked]) -> tuple[Sequence[Evaluated | Refusal], Position]:
        """Evaluate queries; see `Evaluate`. Raise `Refusal` if the document cannot be read now."""
        return await self._readers.run(db_id, partial(self._evaluate_all, asked=asked))

    def _evaluate_all(self, reader: Reader, asked: Sequence[Asked]) -> list[Evaluated | Refusal]:
        until = time.monotonic() + TURN_S
        outcomes: list[Evaluated | Refusal] = []
        for one in asked:
            try:
                outcomes.append(self._evaluate(reader, one))
            except Refusal as refusal:
                outcomes.append(refusal)
            if time.monotonic() > until or not reader.db.in_transaction:
                break  # without the transaction the next one would see another state
        return outcomes

    def _evaluate(self, reader: Reader, asked: Asked) -> Evaluated:
        bounds = self._readers.bounds.narrowed(rows=asked.max_rows)
        began = time.monotonic()
        guard = guard_of(reader.db)
        with guard.reading(began + bounds.seconds):
            running = begin(reader.db, guard, asked.statement, bounds, can_cache=False)  # so that the guard sees it
            try:
                rows = running.collect(bounds)
            finally:
                running.close()
        tables = None if guard.whole else self._dependencies.of(reader.db, guard.tables)
        hashed = result_hash(running.columns, rows)
        body = b"" if hashed == asked.known else _body(running.columns, rows, hashed, bounds)
        return Evaluated(hashed, body, tables, time.monotonic() - began < QUICK_S)


def _body(columns: Sequence[str], rows: Sequence[Row], hashed: str, bounds: SqlBounds) -> bytes:
    encoded = rows_json(rows)
    if len(encoded) > bounds.result_bytes:
        raise Refusal(RESULT_TOO_LARGE.problem(f"the result has more than {bounds.result_bytes} bytes"))
    return b'"columns":%b,"rows":%b,"row_count":%d,"result_hash":"%b"}' % (
        to_json(columns),
        encoded,
        len(rows),
        hashed.encode(),
    )


def _check(reader: Reader, statement: Statement, bounds: SqlBounds) -> None:
    guard = guard_of(reader.db)
    try:
        with guard.running(CLASSES, time.monotonic() + bounds.seconds):
            begin(reader.db, guard, statement, bounds, only_prepare=True)
    except Prepared as prepared:
        if prepared.kind != "read":
            why = f"only a query can be watched, and this statement needs query.{prepared.kind}"
            raise Refusal(INVALID_SQL.problem(why, fix="Watch a SELECT.", field="sql")) from None
