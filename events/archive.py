"""Reading the archive: segments of the log in an object store, each checked, and each against the one before it."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager, suppress

from events.cursor import Cursor, Entry
from events.epochs import Epochs
from events.errors import ChainMismatch, HistoryBegins, LogGap, LogUnavailable, MalformedRecord
from events.objects.errors import CorruptObject, ObjectMissing, StoreUnavailable
from events.objects.port import LIST_MAX, ObjectStore
from events.record import Record
from events.segment import Segment, open_segment
from events.streams import STREAMS, stream_of
from schemas.archive import SegmentKey, Span, partitions_of, segments_from, segments_of
from schemas.ids import START, InvalidId, PartitionId, Position
from schemas.segment import RECORDS_MAX

EVERYTHING = Position(10**20 - 1, 10**20 - 1)
"""Behind every position."""


class Archive:
    """The archive below `prefix` of a store; `name` is for people.

    Raises what reading the log raises: `LogUnavailable` and `LogDamaged`. What a writer stored after another had
    taken over is not there for readers.
    """

    def __init__(self, store: ObjectStore, prefix: str, name: str = "") -> None:
        self.store = store
        self.name = name or prefix
        self._prefix = f"{prefix}/"
        self.epochs = Epochs(store, self._prefix)

    def key(self, relative: str) -> str:
        """Return the whole key of what `schemas.archive` names."""
        return self._prefix + relative

    async def read(self, partition: PartitionId, after: Cursor, until: Position) -> AsyncGenerator[Entry]:
        """Yield the archived records after `after` and before `until`, in order; memory is bounded by one segment.

        Raise `HistoryBegins` if the first is not kept any more, `LogGap` at the first that is missing, `ChainMismatch`
        at the first that does not follow.
        """
        cursor = after
        if not await self.knows(partition, after.position):
            raise ChainMismatch(
                f"{partition}: record {after.position} was written when another writer had taken over: it is not of "
                "the history that counts"
            )
        async for key, span in self._history(partition, after.position.index + 1, until.index):
            if key.first > cursor.position.index + 1:
                await self.check_kept(partition, cursor.position.index + 1)
                raise LogGap(f"{partition}: record {cursor.position.next()} is neither in the log nor in its archive")
            if key.last <= cursor.position.index:
                continue  # two archivers may have cut the same records differently
            for entry in await self._entries(key, span):
                if entry.cursor.position <= cursor.position:
                    continue
                if entry.cursor.position >= until:
                    return
                _check_follows(partition, cursor, entry)
                cursor = entry.cursor
                yield entry
        if cursor is after and after.position.index + 1 < until.index < EVERYTHING.index:
            await self.check_kept(partition, after.position.index + 1)  # of the epochs before nothing may be left

    async def knows(self, partition: PartitionId, position: Position) -> bool:
        """Say whether `position` is of the history that counts, as far as epochs tell: it may not be written yet."""
        with _translated(partition):
            return (await self.epochs.table(position.epoch)).knows(partition, position)

    async def partitions(self, *streams: str) -> AsyncIterator[PartitionId]:
        """Yield the partitions of `streams`, or of all, of which something is archived; raise what the store raises."""
        for stream in streams or [stream.name for stream in STREAMS]:
            after = ""
            while True:
                page = await self.store.folders(self.key(partitions_of(stream)), after=after)
                for name in page.names:
                    with suppress(InvalidId):  # somebody else's folder
                        yield PartitionId.of_token(name)
                if not (after := page.next):
                    break

    async def segments(self, partition: PartitionId, position: Position) -> AsyncIterator[SegmentKey]:
        """Yield the keys of the segments that hold `position` or what follows it, in the order of their records."""
        async for key, _ in self._history(partition, position.index):
            yield key

    async def _history(
        self, partition: PartitionId, index: int, until: int = EVERYTHING.index
    ) -> AsyncIterator[tuple[SegmentKey, Span]]:
        """Yield the segments that hold record `index` or what follows, each with the span of which it may tell.

        Spans in which all is `until` a record or later are not asked for.
        """
        with _translated(partition):
            table = await self.epochs.table()
        for span in table.spans(partition):
            if span.last is not None and span.last < index:
                continue
            if span.first >= until:
                return
            async for key in self._of_epoch(partition, span.epoch, max(index, span.first)):
                if span.last is not None and key.first > span.last:
                    break  # stored when the epoch was over
                yield key, span

    async def _of_epoch(self, partition: PartitionId, epoch: int, index: int) -> AsyncIterator[SegmentKey]:
        stream = stream_of(partition)
        below = self.key(segments_of(stream, partition, epoch))
        after = self.key(segments_from(stream, partition, Position(epoch, max(0, index - RECORDS_MAX))))
        while True:
            with _translated(partition):
                page = await self.store.list(below, after=after)
            for found in page:
                try:
                    key = SegmentKey.parse(found.key.removeprefix(self._prefix))
                except InvalidId:
                    continue  # somebody else's object
                if key.last >= index:
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

    async def _entries(self, key: SegmentKey, span: Span) -> list[Entry]:
        return [entry for entry in (await self.segment(key)).entries if span.holds(entry.cursor.position.index)]

    async def cursor_at(self, partition: PartitionId, position: Position) -> Cursor | None:
        """Return the cursor after the record at `position`, None if the archive does not hold it.

        The one before the first record that is kept needs that record to be there.
        """
        if position == START:
            floor = await self.floor(partition)
            return Cursor.start(partition) if floor is not None and floor.index == 1 else None
        if not await self.knows(partition, position):
            return None
        found = await self.cursor_of(partition, position.index)
        return found if found is not None and found.position == position else None

    async def cursor_of(self, partition: PartitionId, index: int) -> Cursor | None:
        """Return the cursor after record `index`, in whichever epoch it was written, None if it is not held.

        That before the first record that is kept is known by that record.
        """
        for entry in await self._holding(partition, index):
            if entry.cursor.position.index == index:
                return entry.cursor
        return await self._before_first(partition, index) if index else None

    async def _before_first(self, partition: PartitionId, index: int) -> Cursor | None:
        """Return the cursor after record `index` if the archive begins with the next one."""
        if (first := await self._first(partition)) is None or first.first != index + 1:
            return None
        before = (await self.segment(first)).before
        return Cursor(await self.position_of(partition, index), before.hash, 0)

    async def position_of(self, partition: PartitionId, index: int) -> Position:
        """Return the position of record `index` (from 1), in the epoch to which it belongs, written or not."""
        with _translated(partition):
            spans = (await self.epochs.table()).spans(partition)
        return Position(next(span.epoch for span in spans if span.holds(index)), index)

    async def cursor_before(self, partition: PartitionId, end: Position, instant: str) -> Cursor | None:
        """Return the cursor after the last record before `end` that was written at or before `instant`.

        None if the archive does not hold it.
        """
        low, high = START.index, end.index  # `low` is wanted, or stands before everything; `high` is not
        best: Cursor | None = None
        while high - low > 1:
            found = await self._holding(partition, (low + high) // 2)
            if not found:
                floor = await self.floor(partition)
                if floor is None or floor.index - 1 <= low:
                    return None
                low = floor.index - 1  # what is older is not kept any more
                continue
            wanted = [entry.cursor for entry in found if _time(entry.record) <= instant]
            if not wanted:
                high = found[0].cursor.position.index
                continue
            best = wanted[-1]
            if len(wanted) < len(found):
                return best if best.position < end else None
            low = best.position.index
        return best or await self.cursor_at(partition, START)

    async def floor(self, partition: PartitionId) -> Position | None:
        """Return the position of the first archived record, None if there is none."""
        first = await self._first(partition)
        return None if first is None else Position(first.epoch, first.first)

    async def _first(self, partition: PartitionId) -> SegmentKey | None:
        async for key in self.segments(partition, START):
            return key
        return None

    async def check_kept(self, partition: PartitionId, index: int) -> None:
        """Raise `HistoryBegins` if the archive begins after record `index`."""
        floor = await self.floor(partition)
        if floor is not None and floor.index > index:
            raise HistoryBegins(
                f"{partition}: record {index} is not kept any more: the archive begins with record {floor}, and "
                "whatever needs more begins with a generation (docs/replication.md)",
                floor,
            )

    async def _holding(self, partition: PartitionId, index: int) -> list[Entry]:
        """Return the records of the segment that holds record `index`, none if there is no such segment."""
        async for key, span in self._history(partition, index):
            return await self._entries(key, span) if key.first <= index else []
        return []


def _check_follows(partition: PartitionId, cursor: Cursor, entry: Entry) -> None:
    if not entry.cursor.position.follows(cursor.position):
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
