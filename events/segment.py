"""Records of one partition sealed into a segment and out of it again, each checked against the one before it."""

from collections.abc import Sequence
from typing import NamedTuple

from events.chunk import chunk_record, follow_record
from events.cursor import Cursor, Entry
from events.errors import ChainMismatch, LogGap, MalformedRecord
from events.record import Record
from schemas.ids import PartitionId, Position
from schemas.segment import SegmentHead, decode, encode
from schemas.wal import InvalidChunk


class Segment(NamedTuple):
    """A segment that was read: its head, the cursor before its records, and the records in order."""

    head: SegmentHead
    before: Cursor
    entries: list[Entry]


def seal(partition: PartitionId, before: Cursor, entries: Sequence[Entry]) -> bytes:
    """Return the segment of `entries`, which follow `before`; equal records give an equal chain."""
    first, last = entries[0], entries[-1]
    assert first.record.previous == before.hash
    head = SegmentHead(
        partition=partition.subject,
        first=str(first.cursor.position),
        last=str(last.cursor.position),
        previous=before.hash,
        hash=last.cursor.hash,
        count=len(entries),
        body_bytes=1,
        first_time=times(first.record)[0],
        last_time=times(last.record)[1],
    )
    return encode(head, [chunk_record(entry) for entry in entries])


def open_segment(raw: bytes, partition: PartitionId) -> Segment:
    """Read a segment of `partition`; raise `MalformedRecord`, `LogGap` or `ChainMismatch` if it is not sound."""
    try:
        head, records = decode(raw)
        first = Position.parse(head.first)
    except ValueError as error:
        raise MalformedRecord(f"a segment of {partition}: {error}") from error
    if head.partition != partition.subject:
        raise MalformedRecord(f"a segment of {partition} holds {head.partition}")
    before = cursor = Cursor(Position(first.epoch, first.index - 1), head.previous, 0)
    entries: list[Entry] = []
    for found in records:
        try:
            entry = follow_record(partition, cursor, found)
        except InvalidChunk as error:
            raise ChainMismatch(f"a segment of {partition} from {head.first} to {head.last}: {error}") from error
        cursor = entry.cursor
        entries.append(entry)
    if (str(cursor.position), cursor.hash) != (head.last, head.hash):
        raise LogGap(f"a segment of {partition} ends at {cursor.position}, but says {head.last} ({head.hash})")
    return Segment(head, before, entries)


def times(record: Record) -> tuple[str, str]:
    """Return when the first and the last event of a record were written; empty if it holds none."""
    times = [str(event.get("time", "")) for event in record.envelopes()]
    return (times[0], times[-1]) if times else ("", "")
