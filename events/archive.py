"""Reading the archive: segments of the log in an object store, each checked, and each against the one before it."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager

from events.cursor import Cursor, Entry
from events.errors import ChainMismatch, LogGap, LogUnavailable, MalformedRecord
from events.objects.errors import CorruptObject, ObjectMissing, StoreUnavailable
from events.objects.port import LIST_MAX, ObjectStore
from events.record import Record
from events.segment import Segment, open_segment
from events.streams import stream_of
from schemas.archive import SegmentKey, segments_from, segments_of
from schemas.ids import START, InvalidId, PartitionId, Position
from schemas.segment import RECORDS_MAX


class Archive:
    """The archive below `prefix` of a store; `name` is for people.

    Raises what reading the log raises: `LogUnavailable` and `LogDamaged`.
    """

    def __init__(self, store: ObjectStore, prefix: str, name: str = "") -> None:
        self.store = store
        self.name = name or prefix
        self._prefix = f"{prefix}/"

    def key(self, relative: str) -> str:
        """Return the whole key of what `schemas.archive` names."""
        return self._prefix + relative

    async def read(self, partition: PartitionId, after: Cursor, until: Position) -> AsyncGenerator[Entry]:
        """Yield the archived records after `after` and before `until`, in order; memory is bounded by one segment.

        Raise `LogGap` at the first that is missing, `ChainMismatch` at the first that does not follow.
        """
        cursor = after
        async for key in self.segments(partition, after.position.next()):
            if key.first > cursor.position.index + 1:
                raise LogGap(f"{partition}: record {cursor.position.next()} is neither in the log nor in its archive")
            if key.last <= cursor.position.index:
                continue  # two archivers may have cut the same records differently
            for entry in (await self.segment(key)).entries:
                if entry.cursor.position <= cursor.position:
                    continue
                if entry.cursor.position >= until:
                    return
                _check_follows(partition, cursor, entry)
                cursor = entry.cursor
                yield entry

    async def segments(self, partition: PartitionId, position: Position) -> AsyncIterator[SegmentKey]:
        """Yield the keys of the segments that hold `position` or what follows it, in the order of their records."""
        stream = stream_of(partition)
        below = self.key(segments_of(stream, partition, position.epoch))
        begin = Position(position.epoch, max(0, position.index - RECORDS_MAX))
        after = self.key(segments_from(stream, partition, begin))
        while True:
            with _translated(partition):
                page = await self.store.list(below, after=after)
            for found in page:
                try:
                    key = SegmentKey.parse(found.key.removeprefix(self._prefix))
                except InvalidId:
                    continue  # somebody else's object
                if key.last >= position.index:
                    yield key
            if len(page) < LIST_MAX:
                return
            after = page[-1].key

    async def segment(self, key: SegmentKey) -> Segment:
        """Return a segment, verified."""
        with _translated(key.partition):
            found = await self.store.get(self.key(str(key)))
        segment = open_segment(found.data, key.partition)
        ends = [Position.parse(segment.head.first), Position.parse(segment.head.last)]
        if ends != [Position(key.epoch, key.first), Position(key.epoch, key.last)]:
            raise MalformedRecord(f"{key} holds the records {segment.head.first} to {segment.head.last}")
        return segment

    async def cursor_at(self, partition: PartitionId, position: Position) -> Cursor | None:
        """Return the cursor after the record at `position`, None if the archive does not hold it.

        The one before the first record needs the first record to be there.
        """
        if position == START:
            return Cursor.start(partition) if await self.floor(partition, START.epoch) == START.next() else None
        found = await self._holding(partition, position)
        return None if found is None else next(e.cursor for e in found.entries if e.cursor.position == position)

    async def cursor_before(self, partition: PartitionId, end: Position, instant: str) -> Cursor | None:
        """Return the cursor after the last record before `end` that was written at or before `instant`.

        None if the archive does not hold it.
        """
        low, high = START.index, end.index  # `low` is wanted, or stands before everything; `high` is not
        best: Cursor | None = None
        while high - low > 1:
            found = await self._holding(partition, Position(end.epoch, (low + high) // 2))
            if found is None:
                return None
            wanted = [entry.cursor for entry in found.entries if _time(entry.record) <= instant]
            if not wanted:
                high = found.entries[0].cursor.position.index
                continue
            best = wanted[-1]
            if len(wanted) < len(found.entries):
                return best if best.position < end else None
            low = best.position.index
        return best or await self.cursor_at(partition, START)

    async def floor(self, partition: PartitionId, epoch: int) -> Position | None:
        """Return the position of the first archived record of an epoch, None if there is none."""
        async for key in self.segments(partition, Position(epoch, 0)):
            return Position(epoch, key.first)
        return None

    async def _holding(self, partition: PartitionId, position: Position) -> Segment | None:
        async for key in self.segments(partition, position):
            return await self.segment(key) if key.first <= position.index else None
        return None


def _check_follows(partition: PartitionId, cursor: Cursor, entry: Entry) -> None:
    if entry.cursor.position != cursor.position.next():
        raise LogGap(f"{partition}: record {cursor.position.next()} is missing in the archive")
    if entry.record.previous != cursor.hash:
        raise ChainMismatch(
            f"{partition}: archived record {entry.cursor.position} names {entry.record.previous} as its predecessor, "
            f"but record {cursor.position} is {cursor.hash}: the archive has another history"
        )


def _time(record: Record) -> str:
    events = record.envelopes()
    return str(events[0].get("time", "")) if events else ""


@contextmanager
def _translated(partition: PartitionId) -> Iterator[None]:
    """Raise what the store raises as what reading the log raises."""
    try:
        yield
    except (StoreUnavailable, ObjectMissing) as error:  # what was listed a moment ago should be there
        raise LogUnavailable(f"the archive of {partition} cannot be read: {error}") from error
    except CorruptObject as error:
        raise MalformedRecord(f"a segment of {partition}: {error}") from error
