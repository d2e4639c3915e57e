"""Records of one document in a chunk and out of it again, each checked against the one before it."""

from collections.abc import Sequence
from typing import NamedTuple

from events.cursor import Cursor, Entry, Extent
from events.record import CONTENT_TYPE, Record
from schemas.ids import InvalidId, PartitionId, Position
from schemas.wal import ChunkHead, ChunkRecord, InvalidChunk, RecordHead, decode


class ForeignHistory(InvalidChunk):
    """A chunk is whole, but its records do not follow from what the reader has: it has another history."""


class Chunk(NamedTuple):
    """A verified slice: its entries in order, and what its head says."""

    head: ChunkHead
    entries: list[Entry]

    @property
    def cursor(self) -> Cursor:
        """Where the reader stands with these records; an empty chunk moves nobody."""
        if self.entries:
            return self.entries[-1].cursor
        return Cursor(Position.parse(self.head.after), self.head.after_hash, 0)


def chunk_head(partition: PartitionId, after: Cursor, entries: Sequence[Entry], log: Extent, *, eof: bool) -> ChunkHead:
    """Return the head of the chunk that holds `entries`, which follow `after`."""
    end = entries[-1].cursor if entries else after
    return ChunkHead(
        db_id=partition.key,
        partition=partition.subject,
        after=str(after.position),
        after_hash=after.hash,
        next=str(end.position),
        next_hash=end.hash,
        head=str(max(log.head, end.position)),
        floor=str(log.floor),
        eof=eof,
        count=len(entries),
    )


def chunk_record(entry: Entry) -> ChunkRecord:
    """Return a record as chunks hold it."""
    record = entry.record
    head = RecordHead(
        position=str(record.position),
        previous=record.previous,
        id=record.id,
        node=record.node,
        content_type=CONTENT_TYPE,
        encoding=record.encoding,
        sequence=entry.cursor.sequence,
    )
    return ChunkRecord(head, record.payload)


def open_chunk(raw: bytes, partition: PartitionId, after: Cursor) -> Chunk:
    """Read a chunk that was asked for from `after` on; verify checksum, order and chain.

    Raise `InvalidChunk` if it was damaged on its way, `ForeignHistory` if it does not follow `after`.
    """
    head, records = decode(raw)
    if head.partition != partition.subject:
        raise ForeignHistory(f"the chunk is of {head.partition}, not of {partition.subject}")
    if (head.after, head.after_hash) != (str(after.position), after.hash):
        raise ForeignHistory(
            f"the chunk follows {head.after} ({head.after_hash}), not {after.position} ({after.hash}): "
            "the source has another history"
        )
    entries: list[Entry] = []
    cursor = after
    for found in records:
        entry = follow_record(partition, cursor, found)
        cursor = entry.cursor
        entries.append(entry)
    if (head.next, head.next_hash) != (str(cursor.position), cursor.hash):
        raise ForeignHistory(f"the chunk ends at {cursor.position}, but says {head.next} ({head.next_hash})")
    return Chunk(head, entries)


def follow_record(partition: PartitionId, cursor: Cursor, found: ChunkRecord) -> Entry:
    """Return the record that `found` is; raise `InvalidChunk` or `ForeignHistory` unless it follows `cursor`."""
    head = found.head
    try:
        position = Position.parse(head.position)
    except InvalidId as error:
        raise InvalidChunk(str(error)) from error
    if head.content_type != CONTENT_TYPE or head.encoding not in ("", "zstd"):
        raise InvalidChunk(f"record {position} has an unknown encoding: use a newer Forge")
    if not position.follows(cursor.position):
        raise ForeignHistory(f"record {position} follows {cursor.position}: a record is missing, double or misplaced")
    if head.previous != cursor.hash:
        raise ForeignHistory(f"record {position} does not follow from {cursor.position}: the chain is broken")
    record = Record(partition, position, head.previous, head.id, head.node, found.payload, head.encoding)
    return Entry(record, Cursor(position, record.hash, head.sequence))
