"""Find a place in a partition's history: by position or by time, without an index, in few questions to the server.

Messages of one partition stand in its stream in the order of their positions, with others between them. So the
sequence of a position is found by search: a guess by proportion, then by halving, in turns.
"""

from dataclasses import dataclass

from pydantic_core import from_json
from zstandard import ZstdDecompressor, ZstdError

from events.append import last_message
from events.archive import Archive
from events.connection import Connection
from events.cursor import Cursor, Extent
from events.errors import LogError, LogGap
from events.read import completes, message_position, messages_from
from events.record import Message, Record, from_messages
from schemas.ids import START, PartitionId, Position

PEEK_BYTES = 64 << 10  # of a record's JSON; the time of its first event stands before the event's data
PARTS_AT_ONCE = 8


class OutOfReach(LogError):
    """The log does not hold what was asked for. `floor` is the first record that it holds, `head` the last."""

    def __init__(self, why: str, extent: "Extent") -> None:
        super().__init__(why)
        self.floor = extent.floor
        self.head = extent.head


class BeyondHead(OutOfReach):
    """The position has not been written yet."""


class BelowFloor(OutOfReach):
    """Records after the position are no longer in the log."""


class OtherHistory(OutOfReach):
    """The position is of an epoch that this log does not know, or was written when its epoch was over."""


@dataclass(slots=True)
class _Range:
    """What a search knows: `below` is wanted no more, `above` is wanted; nothing between it and `bound` is there."""

    below: Message
    above: Message
    bound: int

    def narrow(self, message: Message, asked: int, *, wanted: bool) -> None:
        """Take in the first message of the partition from sequence `asked` on."""
        if wanted:
            self.above, self.bound = message, asked
        else:
            self.below = message

    @property
    def open(self) -> bool:
        """Whether a message may stand between."""
        return self.bound - self.below.sequence > 1

    def guess(self, index: int | None) -> int:
        """Return a sequence strictly between: where record `index` is by proportion, or the middle."""
        low, high = self.below.sequence, self.bound
        if index is None:
            return (low + high) // 2
        first, last = message_position(self.below), message_position(self.above)
        share = (index - first.index) / max(1, last.index - first.index)
        return min(max(round(low + share * (self.above.sequence - low)), low + 1), high - 1)


async def extent(connection: Connection, partition: PartitionId) -> Extent:
    """Return the positions of the first and the last record of the log and its archive."""
    last = await last_message(connection, partition)
    if last is None:
        return Extent(START, START)
    floor = message_position(await _first(connection, partition, 1))
    if connection.archive is not None and floor.index > 1:
        floor = min(floor, await connection.archive.floor(partition) or floor)
    return Extent(floor, message_position(last))


async def seek(connection: Connection, partition: PartitionId, position: Position) -> Cursor:
    """Return the cursor after the record at `position`; the one before the first record needs no record.

    Raise `BeyondHead`, `BelowFloor` or `OtherHistory`, and what reading raises.
    """
    last = await last_message(connection, partition)
    first = await _first(connection, partition, 1) if last else None
    if last is None or first is None:
        _check_reach(position, Extent(START, START), partition)
        return Cursor.start(partition)
    known = Extent(message_position(first), message_position(last))
    inside = known.floor.index <= position.index <= known.head.index
    if connection.archive is None or inside or (position == START and known.floor.index == 1):
        _check_reach(position, known, partition)
    elif archived := await _outside(connection.archive, partition, position, known):
        return archived
    if position == START:
        return Cursor.start(partition)
    if position.index < known.floor.index:  # its own record is gone, but everything after it is there
        return Cursor(position, first.headers["Forge-Previous"], first.sequence - 1)
    cursor = await _find(connection, partition, position.index, first, last)
    if cursor.position != position:
        raise _lost(position, known, partition)
    return cursor


async def seek_index(connection: Connection, partition: PartitionId, index: int) -> Cursor:
    """Return the cursor after record `index`, in whichever epoch it was written; raise what `seek` raises."""
    last = await last_message(connection, partition)
    first = await _first(connection, partition, 1) if last else None
    if last is None or first is None or not index:
        return await seek(connection, partition, Position(START.epoch, index))
    floor, head = message_position(first), message_position(last)
    if floor.index <= index <= head.index:
        return await _find(connection, partition, index, first, last)
    archive = connection.archive
    if archive is not None and index < floor.index and (archived := await archive.cursor_of(partition, index)):
        return archived
    if archive is not None and index + 1 < floor.index:
        raise await _below(archive, partition, f"what follows record {index} is gone", Extent(floor, head))
    if archive is not None and index < floor.index:
        return await seek(connection, partition, await archive.position_of(partition, index))
    return await seek(connection, partition, Position(floor.epoch if index < floor.index else head.epoch, index))


async def seek_begin(connection: Connection, partition: PartitionId) -> Cursor:
    """Return the cursor before the first record that log and archive keep; raise what `seek` raises."""
    archived = await connection.archive.floor(partition) if connection.archive is not None else None
    floor = (await extent(connection, partition)).floor
    if archived is None or archived.index == 1 or floor.index <= 1:
        return Cursor.start(partition)  # if the log begins later than that, it lost something
    return await seek_index(connection, partition, floor.index - 1)


async def seek_end(connection: Connection, partition: PartitionId) -> Cursor:
    """Return the cursor after the last record."""
    last = await last_message(connection, partition)
    if last is None:
        return Cursor.start(partition)
    return await _cursor(connection, partition, message_position(last).index, _start(last))


async def seek_time(connection: Connection, partition: PartitionId, instant: str) -> Cursor:
    """Return the cursor after the last record that was written at or before `instant` (`schemas.instants`).

    Raise `BelowFloor` if only records that are gone can be meant.
    """
    last = await last_message(connection, partition)
    first = await _first(connection, partition, 1) if last else None
    if last is None or first is None:
        return Cursor.start(partition)
    if await _time(connection, partition, last) <= instant:
        return await _cursor(connection, partition, message_position(last).index, _start(last))
    if await _time(connection, partition, first) > instant:
        floor = message_position(first)
        if floor.index == 1:
            return Cursor.start(partition)
        archive = connection.archive
        known = Extent(floor, message_position(last))
        if archive is not None and (archived := await archive.cursor_before(partition, floor, instant)):
            return archived
        raise await _below(archive, partition, f"all of it is later than {instant}", known)
    between = _Range(first, last, last.sequence)
    while between.open:
        asked = between.guess(None)
        message = await _first(connection, partition, asked)
        between.narrow(message, asked, wanted=await _time(connection, partition, message) > instant)
    return await _cursor(connection, partition, message_position(between.below).index, _start(between.below))


async def _outside(archive: Archive, partition: PartitionId, position: Position, known: Extent) -> Cursor | None:
    """Return the cursor at a position that is not in the log, which its archive knows; None: just before the log."""
    if not await archive.knows(partition, position):
        raise _lost(position, known, partition)
    if position.index + 1 == known.floor.index:
        return None
    if position.index < known.floor.index:
        if archived := await archive.cursor_at(partition, position):
            return archived
        raise await _below(archive, partition, f"what follows {position} is gone", known)
    raise _out_of_reach(position, known, partition)


async def _below(archive: Archive | None, partition: PartitionId, why: str, known: Extent) -> BelowFloor:
    """Return the refusal of what is older than all that log and archive keep; it names the first record of both."""
    floor = await archive.floor(partition) if archive is not None else None
    known = known._replace(floor=min(known.floor, floor or known.floor))
    return BelowFloor(f"{partition}: the log begins with {known.floor}; {why}", known)


def _lost(position: Position, known: Extent, partition: PartitionId) -> OtherHistory:
    return OtherHistory(
        f"{partition}: record {position} is not of this history, which goes on in a later epoch without it "
        f"({known.floor} to {known.head} are here): it was written by a node that had lost its writer lease, or was "
        "lost with its machine",
        known,
    )


def _check_reach(position: Position, known: Extent, partition: PartitionId) -> None:
    if not START.epoch <= position.epoch <= known.head.epoch:
        raise OtherHistory(
            f"{partition} has no epoch {position.epoch}: its log holds {known.floor} to {known.head}", known
        )
    if position > known.head or position.index + 1 < known.floor.index:
        raise _out_of_reach(position, known, partition)
    unsure = position.index < known.floor.index and position != START and position.epoch != known.floor.epoch
    if unsure or position.index > known.head.index:
        raise _lost(position, known, partition)


def _out_of_reach(position: Position, known: Extent, partition: PartitionId) -> OutOfReach:
    if position.index > known.head.index:
        return BeyondHead(f"{partition} stands at {known.head}; {position} is not written yet", known)
    return BelowFloor(f"{partition}: the log begins with {known.floor}; what follows {position} is gone", known)


async def _find(connection: Connection, partition: PartitionId, index: int, first: Message, last: Message) -> Cursor:
    """Return the cursor after record `index`, which is `first`, `last` or between them; raise `LogGap`."""
    for message in (first, last):
        if message_position(message).index == index:
            return await _cursor(connection, partition, index, _start(message))
    between = _Range(first, last, last.sequence)
    by_share = True
    while between.open:
        asked = between.guess(index if by_share else None)
        by_share = not by_share
        message = await _first(connection, partition, asked)
        if message_position(message).index == index:
            return await _cursor(connection, partition, index, _start(message))
        between.narrow(message, asked, wanted=message_position(message).index > index)
    return await _cursor(connection, partition, index, between.bound)


async def _first(connection: Connection, partition: PartitionId, sequence: int) -> Message:
    """Return the first message of the partition from `sequence` on; there must be one."""
    found = await messages_from(connection, partition, sequence, 1)
    if not found:
        raise LogGap(f"{partition} has no message from sequence {sequence} on, but had one a moment ago")
    return found[0]


def _start(message: Message) -> int:
    """Return where the record of `message` begins: the parts of a batch stand side by side."""
    return message.sequence - int(message.headers.get("Nats-Batch-Sequence", "1")) + 1


async def _cursor(connection: Connection, partition: PartitionId, index: int, sequence: int) -> Cursor:
    record, end = await _record(connection, partition, sequence)
    if record.position.index != index:
        raise LogGap(f"{partition}: record {index} is missing; {record.position} stands in its place")
    return Cursor(record.position, record.hash, end)


async def _record(connection: Connection, partition: PartitionId, sequence: int) -> tuple[Record, int]:
    """Return the first whole record from `sequence` on, and the sequence of its last message."""
    parts: list[Message] = []
    limit = 1
    while batch := await messages_from(connection, partition, sequence, limit):
        for message in batch:
            if completes(message, parts):
                return from_messages(parts), message.sequence
        sequence = batch[-1].sequence + 1
        limit = PARTS_AT_ONCE
    raise LogGap(f"{partition}: no whole record stands at sequence {sequence}")


async def _time(connection: Connection, partition: PartitionId, message: Message) -> str:
    """Return when the record of `message` was written, by its writer's clock; empty if it holds no event."""
    if (start := _start(message)) != message.sequence:
        message = await _first(connection, partition, start)
    if time := _first_time(_peek(message)):
        return time
    record, _ = await _record(connection, partition, start)
    return _first_time(record.json())


def _first_time(raw: bytes) -> str:
    """Return the time of the first event in JSON that may break off; empty if it breaks off before that."""
    events = from_json(raw, allow_partial=True) if raw else []
    return str(events[0].get("time", "")) if events else ""


def _peek(message: Message) -> bytes:
    """Return the beginning of a record's JSON, as far as its first message tells."""
    if message.headers.get("Content-Encoding") != "zstd":
        return message.payload[:PEEK_BYTES]
    try:
        return ZstdDecompressor().stream_reader(message.payload).read(PEEK_BYTES)
    except ZstdError:
        return b""
