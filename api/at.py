"""Reads of the past: `?at=<position or time>`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from api.routes import Request
from projectors.document.past.travel import TimeTravel
from projectors.document.reads.reader import Reader
from projectors.document.reads.reading import DocumentReaders
from projectors.document.reads.row_stream import RowStream, RowStreams
from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.classes import NotARead, execute_reads
from projectors.document.sql.results import Results
from schemas.document import Statement
from schemas.ids import InvalidId, Position
from schemas.instants import format_instant
from schemas.problems import FORBIDDEN, INVALID_PARAMETER, Refusal

AT = "at"
MOMENT_LENGTH_MAX = 64


@dataclass(frozen=True, slots=True)
class Past:
    """What reads documents as they were."""

    travel: TimeTravel
    readers: DocumentReaders
    streams: RowStreams

    async def read(
        self, request: Request[Any], statements: Sequence[Statement], bounds: SqlBounds, *, numbered: bool
    ) -> tuple[Results, Position]:
        """Return the results of reads and the position that they saw; refuse (400) anything but reads."""

        def run(reader: Reader) -> Results:
            return execute_reads(reader.db, statements, bounds, numbered=numbered)

        async with self.travel.at(request.db_id, _moment(request)) as copy:
            try:
                return await self.readers.run(request.db_id, run, path=copy.path)
            except NotARead as found:
                raise _not_a_read(found) from None

    async def stream(self, request: Request[Any], statement: Statement, bounds: SqlBounds) -> RowStream:
        """Begin a read of any size."""
        async with self.travel.at(request.db_id, _moment(request)) as copy:  # once open, it may be removed
            try:
                return await self.streams.open(request.db_id, statement, bounds, path=copy.path)
            except NotARead as found:
                raise _not_a_read(found) from None


def parse_moment(text: str, field: str) -> Position | str:
    """Read a position (`1.42`) or a time (RFC 3339; UTC if it names no zone), as `TimeTravel.at` takes it."""
    text = text.strip()
    try:
        return Position.parse(text)
    except InvalidId:
        pass
    try:
        if len(text) > MOMENT_LENGTH_MAX or not text.isascii():
            raise ValueError
        # In a query a plus that nobody escaped has become a space.
        moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        return format_instant(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        why = f"{field} is a position such as 1.42 or a time such as 2026-01-31T12:30:00Z, not {text[:40]!r}"
        raise Refusal(INVALID_PARAMETER.problem(why, field=field)) from error


def _moment(request: Request[Any]) -> Position | str:
    if not request.allows("query.read"):
        raise Refusal(FORBIDDEN.problem(f"reading the past needs query.read on {request.db_id}"))
    return parse_moment(request.query[AT], AT)


def _not_a_read(found: NotARead) -> Refusal:
    why = f"the past can only be read, and the statement is of class {found.kind}"
    return Refusal(INVALID_PARAMETER.problem(why, fix="Leave `at` out, or send a SELECT.", field=AT))
