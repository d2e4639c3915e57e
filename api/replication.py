"""The routes that replicas live on: slices of a document's log, and snapshots to begin with."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from api.inputs import number, position_input, text
from api.leaving import given_up_when_client_leaves
from api.parameters import query_number
from api.places import FLOOR_HEADER, HEAD_HEADER, Documents, document, other_history, place, query_position, refusals
from api.positions import POSITION_HEADER
from api.routes import Request, Route, StreamReply
from api.tracking import INPUTS as REPLICA_INPUTS
from api.tracking import Tracking
from events.chunk import chunk_head, chunk_record
from events.cursor import Cursor, Entry
from projectors.document.history.history import History
from schemas.ids import PartitionId, Position
from schemas.problems import INVALID_PARAMETER, UNAVAILABLE, Refusal
from schemas.replicas import ReplicaReport
from schemas.wal import CONTENT_TYPE, ChunkHead, ChunkRecord, encode, size

CHUNK_BYTES_DEFAULT, CHUNK_BYTES_MAX = 1 << 20, 16 << 20
CHUNK_RECORDS_MAX = 2048
HEAD_BYTES = 1024  # of a chunk, at most, without its records
RECORD_HEAD_BYTES = 400  # of a record, at most, without its payload
SEND_BYTES = 64 << 10
WAIT_MS_MAX = 30_000
IN_FLIGHT_BYTES_MAX = 256 << 20  # of chunks that were made and not yet sent
NUMBER_MAX = 10**19 - 1
INPUTS = (
    position_input("after", "The position to begin after; or give segment and offset."),
    number("segment", "The epoch of the position to begin after.", 0, NUMBER_MAX),
    number("offset", "The index of the position to begin after; 0 for the beginning.", 0, NUMBER_MAX),
    number("max_bytes", "The size of a chunk; one record is always sent.", 1, CHUNK_BYTES_MAX, CHUNK_BYTES_DEFAULT),
    number("wait_ms", "How long to wait at the head for what comes.", 0, WAIT_MS_MAX, 0),
    text("hash", "What the caller has as the hash of the record at the position; 409 if it is another here."),
    *REPLICA_INPUTS,
)


@dataclass(slots=True)
class ReplicationApi:
    """The handlers, with what they need."""

    history: History
    documents: Documents
    tracking: Tracking
    in_flight_bytes: int = field(default=0, init=False)

    def routes(self) -> Sequence[Route]:
        """Return the route table of replication."""
        return (
            Route(
                "GET",
                "/api/v1/db/{db_id}/wal",
                "query.read",
                self.wal,
                resource="/wal",
                waits=True,
                inputs=INPUTS,
                media={200: (CONTENT_TYPE,)},
                replies={
                    200: "a chunk of records (docs/replication-http.md)",
                    400: "segment and offset, or after, are missing or no position",
                    409: "the position is of another history: take a snapshot",
                    410: "records after the position are gone, or the replica's copy was given up: take a snapshot",
                    416: "the position is beyond the head",
                },
                summary="The records of a document after a position, as they stand in the log",
            ),
        )

    async def wal(self, request: Request[None]) -> StreamReply:
        """Answer a chunk of the records after a position, or wait for the first one to come."""
        partition = document(request, self.documents)
        position = _position(request)
        bytes_max = query_number(request, "max_bytes", CHUNK_BYTES_DEFAULT, 1, CHUNK_BYTES_MAX)
        wait_s = query_number(request, "wait_ms", 0, 0, WAIT_MS_MAX) / 1000
        report = self.tracking.following(request, position)
        self.tracking.check(report, partition)
        cursor = await self._place(request, partition, position, report)
        tracked = self.tracking.heard(report, partition)
        with refusals(partition):
            if wait_s and position == (await self.history.end(partition)).position:
                with given_up_when_client_leaves(request):
                    await self._news(partition, cursor, wait_s)
            self._reserve(bytes_max)
            try:
                entries, eof = await self._collect(partition, cursor, bytes_max)
                known = await self.history.extent(partition)
            except BaseException:
                self.in_flight_bytes -= bytes_max
                raise
        eof = eof and (entries[-1].cursor if entries else cursor).position >= known.head
        head = chunk_head(partition, cursor, entries, known, eof=eof)
        sending = _Sending(head, [chunk_record(entry) for entry in entries], lambda: self._release(bytes_max))
        return StreamReply(200, sending, _headers(head) | tracked | {"content-length": str(sending.size)}, CONTENT_TYPE)

    async def _place(
        self, request: Request[None], partition: PartitionId, position: Position, report: ReplicaReport | None
    ) -> Cursor:
        """Return the cursor at `position`; refuse what the log does not hold, and another history (409)."""
        try:
            cursor = await place(self.history, partition, position)
            if (hash_ := request.query.get("hash")) and hash_ != cursor.hash:
                raise other_history(partition, f"record {position} has the hash {cursor.hash} here, not {hash_[:64]}")
        except Refusal as refusal:
            self.tracking.refused(report, refusal)
            raise
        return cursor

    def _reserve(self, amount: int) -> None:
        if self.in_flight_bytes + amount > IN_FLIGHT_BYTES_MAX:
            raise Refusal(UNAVAILABLE.problem("too many parts of the log are being sent at this moment"))
        self.in_flight_bytes += amount

    def _release(self, amount: int) -> None:
        self.in_flight_bytes -= amount

    async def _news(self, partition: PartitionId, cursor: Cursor, wait_s: float) -> None:
        """Wait until something follows `cursor`, at most `wait_s`."""
        try:
            async with (
                asyncio.timeout(wait_s),
                self.history.following(partition) as feed,
                aclosing(feed.follow(cursor)) as passings,
            ):
                await anext(passings)
        except TimeoutError:
            pass

    async def _collect(self, partition: PartitionId, cursor: Cursor, bytes_max: int) -> tuple[list[Entry], bool]:
        """Return the records after `cursor` that fit, at least one if there is one, and whether no more are there."""
        entries: list[Entry] = []
        left = bytes_max - HEAD_BYTES
        async with aclosing(self.history.read(partition, cursor)) as found:
            async for entry in found:
                left -= len(entry.record.payload) + RECORD_HEAD_BYTES
                if entries and (left < 0 or len(entries) == CHUNK_RECORDS_MAX):
                    return entries, False
                entries.append(entry)
        return entries, True


class _Sending:
    """The parts of a chunk; `released` is called once when they were sent, or never will be."""

    def __init__(self, head: ChunkHead, records: list[ChunkRecord], released: Callable[[], None]) -> None:
        self.size = size(head, records)
        self._parts = encode(head, records)
        self._released: Callable[[], None] | None = released

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        gathered: list[bytes] = []
        length = 0
        for part in self._parts:
            gathered.append(part)
            length += len(part)
            if length >= SEND_BYTES:
                break
        if not gathered:
            raise StopAsyncIteration
        return b"".join(gathered)

    async def aclose(self) -> None:
        """Let go of what was reserved."""
        if self._released is not None:
            self._released()
            self._released = None


def _position(request: Request[Any]) -> Position:
    """Read a position from `after`, or from `segment` (the epoch) and `offset` (the index)."""
    after = query_position(request, "after")
    if after is not None:
        return after
    for name in ("segment", "offset"):
        if not request.query.get(name):
            why = f"{name} is missing: give segment and offset, or after; segment=1&offset=0 is the beginning"
            raise Refusal(INVALID_PARAMETER.problem(why, field=name))
    return Position(
        query_number(request, "segment", 0, 0, NUMBER_MAX), query_number(request, "offset", 0, 0, NUMBER_MAX)
    )


def _headers(head: ChunkHead) -> dict[str, str]:
    return {
        POSITION_HEADER: head.next,
        "forge-next": head.next,
        HEAD_HEADER: head.head,
        FLOOR_HEADER: head.floor,
        "forge-eof": "true" if head.eof else "false",
        "cache-control": "no-store",
    }
