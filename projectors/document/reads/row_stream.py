"""A read of any size, whose rows are taken part by part."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from projectors.document.reads.reader import Reader
from projectors.document.reads.reading import DocumentReaders, Use
from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.classes import begin_read
from projectors.document.sql.results import Row
from projectors.document.sql.sandbox import guard_of
from projectors.document.sql.statements import Running
from schemas.document import Statement
from schemas.ids import Position
from schemas.problems import QUERY_TIMEOUT, UNAVAILABLE, Refusal

PART_ROWS = 1000
PART_BYTES = 64 << 10
STREAM_S_MAX = 600.0  # the state that a stream reads keeps the file's log from shrinking


@dataclass(slots=True)
class RowStream:
    """Rows of one state of a document, at `position`."""

    use: Use
    bounds: SqlBounds
    running: Running
    position: Position
    deadline: float

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns; they may repeat."""
        return self.running.columns


class RowStreams:
    """At most `total` streams are open at a time, `per_document` of them of one document.

    A stream keeps a connection while it lasts, and a thread only while it reads. `close` each one that was opened.
    """

    def __init__(self, readers: DocumentReaders, *, total: int = 32, per_document: int = 8) -> None:
        self._readers = readers
        self._total = total
        self._per_document = per_document
        self._open: Counter[str] = Counter()

    @property
    def open_now(self) -> int:
        """How many are open."""
        return self._open.total()

    async def open(self, db_id: str, statement: Statement, bounds: SqlBounds, *, path: Path | None = None) -> RowStream:
        """Begin a read of which each part has `bounds.seconds`. Raise `Refusal`, or `NotARead`.

        `path` is a file to read instead, with the document as it was.
        """
        if self.open_now >= self._total or self._open[db_id] >= self._per_document:
            why = f"{self._open[db_id]} streams of {db_id} are open, {self.open_now} in all"
            raise Refusal(UNAVAILABLE.problem(why))
        self._open[db_id] += 1
        use = None
        try:
            use = await self._readers.take(db_id) if path is None else self._readers.take_file(db_id, path)
            running, position = await self._readers.turn(use, _begin, statement, bounds)
            return RowStream(use, bounds, running, position, time.monotonic() + STREAM_S_MAX)
        except BaseException:
            if use is not None:
                self._readers.put(use)
            self._left(db_id)
            raise

    async def next(self, stream: RowStream) -> list[Row]:
        """Return the next rows, none when there are no more; raise `Refusal`."""
        if time.monotonic() > stream.deadline:
            raise Refusal(QUERY_TIMEOUT.problem(f"the stream is not over after {STREAM_S_MAX:g} s"))
        return await self._readers.turn(stream.use, _take, stream)

    def close(self, stream: RowStream) -> None:
        """End a stream, wherever it is."""
        stream.running.close()
        assert stream.use.reader is not None
        stream.use.reader.end()
        self._readers.put(stream.use)
        self._left(stream.use.document.db_id)

    def _left(self, db_id: str) -> None:
        self._open[db_id] -= 1
        if not self._open[db_id]:
            del self._open[db_id]


def _begin(reader: Reader, statement: Statement, bounds: SqlBounds) -> tuple[Running, Position]:
    position = reader.begin()
    try:
        return begin_read(reader.db, statement, bounds, time.monotonic() + bounds.seconds), position
    except BaseException:
        reader.end()
        raise


def _take(reader: Reader, stream: RowStream) -> list[Row]:
    with guard_of(reader.db).reading(time.monotonic() + stream.bounds.seconds):
        return stream.running.take(PART_ROWS, PART_BYTES)
