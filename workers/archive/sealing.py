"""Archive the records of one partition: their payloads first, the sealed segment second, the position later."""

import asyncio
import errno
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import structlog

from events.archive import Archive
from events.connection import Connection
from events.cursor import Cursor, Entry
from events.envelope import decode_events
from events.errors import ChainMismatch, LogDamaged
from events.objects.errors import CorruptObject, ObjectMissing, PreconditionFailed, StoreUnavailable
from events.payload_archive import store_payload
from events.read import check, read
from events.record import Record
from events.segment import open_segment, seal, times
from events.streams import stream_of
from schemas.archive import SegmentKey
from schemas.facts import Fact
from schemas.ids import PartitionId, Position
from schemas.segment import RECORDS_MAX
from workers.archive import metrics
from workers.archive.backlog import Found
from workers.archive.places import Places

INLINE_BYTES = 64 << 10  # so little is sealed sooner than a thread is asked to; half a millisecond,
RECORD_BYTES = 512  # counted for each record, however small
SEGMENTS_UNTOLD_MAX = 16  # so much may have to be found again after a crash
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""The machine is short of something: that says nothing of the file that could not be opened."""

Archived = Callable[[PartitionId, Position, int, int], None]
"""Is told that so many records and bytes of a partition were archived, up to a position."""

log = structlog.get_logger(__name__)


class Sealer:
    """Writes to the archive. `payload_path` says where the bytes of a payload lie on this node."""

    def __init__(
        self,
        archive: Archive,
        reader: Connection,
        places: Places,
        facts: Mapping[str, Mapping[str, type[Fact]]],
        payload_path: Callable[[str], Path],
        *,
        seal_bytes: int,
        archived: Archived = lambda *_: None,
    ) -> None:
        self._archived = archived
        self._archive = archive
        self._reader = reader
        self._places = places
        self._facts = {domain: known for domain, known in facts.items() if _name_payloads(known.values())}
        self._payload_path = payload_path
        self._seal_bytes = seal_bytes
        # Where segments end of which nobody knows whether they are stored: the next try cuts there again.
        self._unsure: dict[PartitionId, Position] = {}

    async def archive(self, partition: PartitionId, found: Sequence[Found]) -> None:
        """Archive the records of `found` that are not yet; `tell` says so. Repeating it changes nothing.

        Raise `StoreUnavailable` or `LogUnavailable` to be called again, `LogDamaged` to be called no more.
        """
        cursor = (await self._places.find(partition)).cursor
        records = size = 0
        async with aclosing(self._groups(partition, cursor, found)) as groups:
            async for group in groups:
                for entry in group:
                    await self._payloads(entry.record)
                time = await self._segment(partition, cursor, group)
                cursor = group[-1].cursor
                untold = self._places.advance(partition, cursor, time)
                records += len(group)
                size += sum(len(entry.record.payload) for entry in group)
                if untold >= SEGMENTS_UNTOLD_MAX:
                    await self._places.tell(partition)
        if records:
            self._archived(partition, cursor.position, records, size)

    async def tell(self, partition: PartitionId) -> None:
        """Say in the store how far a partition is archived; raise what `archive` raises."""
        await self._places.tell(partition)

    async def _groups(
        self, partition: PartitionId, cursor: Cursor, found: Sequence[Found]
    ) -> AsyncGenerator[list[Entry]]:
        """Yield the records of `found` after `cursor`, checked, as many at a time as make one segment."""
        group: list[Entry] = []
        size = 0
        async with aclosing(self._entries(partition, cursor, found)) as entries:
            async for entry in entries:
                if group and entry.cursor.position.epoch != group[0].cursor.position.epoch:
                    yield group  # a segment is of one epoch
                    group, size = [], 0
                group.append(entry)
                size += len(entry.record.payload)
                full = size >= self._seal_bytes or len(group) >= RECORDS_MAX
                if full or entry.cursor.position == self._unsure.get(partition):
                    yield group
                    group, size = [], 0
        if group:
            yield group

    async def _entries(self, partition: PartitionId, cursor: Cursor, found: Sequence[Found]) -> AsyncGenerator[Entry]:
        """Yield the records of `found` after `cursor`; what is missing between is read from the log."""
        wanted = [one for one in found if one.record.position > cursor.position]
        if wanted and wanted[0].record.position.index > cursor.position.index + 1:
            async with aclosing(read(self._reader, partition, cursor)) as entries:
                async for entry in entries:
                    if entry.cursor.position >= wanted[0].record.position:
                        break
                    cursor = entry.cursor
                    yield entry
        for one in wanted:
            entry = check(one.record, cursor, one.sequence)
            cursor = entry.cursor
            yield entry

    async def _segment(self, partition: PartitionId, before: Cursor, entries: Sequence[Entry]) -> str:
        """Store the segment of `entries` and return when the last event in it was written."""
        first, last = entries[0].cursor.position, entries[-1].cursor.position
        if not await self._archive.knows(partition, last):
            raise ChainMismatch(f"record {last} of {partition} was written when its epoch was over: it does not count")
        if sum(RECORD_BYTES + entry.record.json_bytes for entry in entries) <= INLINE_BYTES:
            raw, last_time = _sealed(partition, before, entries)
        else:
            raw, last_time = await asyncio.to_thread(_sealed, partition, before, entries)
        relative = SegmentKey(stream_of(partition), partition, first.epoch, first.index, last.index)
        key = self._archive.key(str(relative))
        self._unsure[partition] = last
        try:
            await self._archive.store.create(key, raw)
        except PreconditionFailed:
            await self._same(key, partition, before, entries[-1].cursor)
        else:
            metrics.segments.inc()
            metrics.stored_bytes.labels("segment").inc(len(raw))
        del self._unsure[partition]
        return last_time

    async def _same(self, key: str, partition: PartitionId, before: Cursor, end: Cursor) -> None:
        """Raise `LogDamaged` unless the segment that is there holds what was to be stored."""
        try:
            found = await self._archive.store.get(key)
        except ObjectMissing as error:
            raise StoreUnavailable(f"{key} was said to exist, but does not") from error
        except CorruptObject as error:
            raise LogDamaged(f"{key} is damaged: {error}") from error
        segment = await asyncio.to_thread(open_segment, found.data, partition)
        if (segment.head.previous, segment.head.hash) != (before.hash, end.hash):
            raise ChainMismatch(
                f"{key} exists with other records than the log of {partition} holds: the archive is that of another "
                "history. Nothing of it was changed; use another prefix (FORGE_S3_PREFIX), or restore from it"
            )

    async def _payloads(self, record: Record) -> None:
        if (facts := self._facts.get(record.partition.domain)) is None:
            return
        for event in decode_events(record.json(), facts):
            for cid in event.fact.payloads:
                await self._payload(cid, record)

    async def _payload(self, cid: str, record: Record) -> None:
        """Store one payload unless it is there. One that this node has lost must not keep the log from the archive."""
        path = self._payload_path(cid)
        try:
            stored = await store_payload(self._archive, cid, path)
        except (CorruptObject, OSError) as error:
            if isinstance(error, OSError) and error.errno in _SHORT:
                raise StoreUnavailable(f"payload {cid} cannot be read now: {error}") from error
            metrics.payloads_missing.inc()
            log.error("payload not archived", cid=cid, record=str(record.position), reason=str(error))
        else:
            metrics.stored_bytes.labels("payload").inc(path.stat().st_size if stored else 0)


def _name_payloads(facts: Iterable[type[Fact]]) -> bool:
    return any(fact.payloads is not Fact.payloads for fact in facts)


def _sealed(partition: PartitionId, before: Cursor, entries: Sequence[Entry]) -> tuple[bytes, str]:
    return seal(partition, before, entries), times(entries[-1].record)[1]
