"""A segment: a sealed range of records of one partition, as it lies in the archive.

    magic "FORGESEG", version (1 byte)
    length (4 bytes), head: JSON, see `SegmentHead`
    one zstd frame; in it `head.count` times: length (4 bytes), JSON, see `RecordHead`; length (4 bytes), payload
    BLAKE3-256 of everything before (32 bytes)

Lengths are little endian. Unknown fields of the JSON parts are ignored.
"""

import struct
from collections.abc import Sequence
from itertools import chain

import zstandard
from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.wal import HEAD_BYTES_MAX, ChunkRecord, InvalidChunk, framed, part_at, record_at, record_parts

MAGIC = b"FORGESEG"
VERSION = 1
RECORDS_MAX = 4096  # of one segment, so that the one that holds a position is found by one short listing
BODY_BYTES_MAX = 512 << 20  # decompressed: room for the largest record, a bound for readers' memory
_DIGEST_BYTES = 32
_LEVEL = 3


class InvalidSegment(ValueError):
    """Bytes are not a whole, unaltered segment that this version can read; the message says why."""


class SegmentHead(BaseModel):
    """What a segment holds. Positions are `epoch.index`, hashes those of the chain."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    partition: str = Field(description="the log subject")
    first: str = Field(description="position of the first record")
    last: str = Field(description="position of the last record")
    previous: str = Field(description="hash of the record before the first")
    hash: str = Field(description="hash of the last record")
    count: int = Field(ge=1, le=RECORDS_MAX)
    body_bytes: int = Field(ge=1, le=BODY_BYTES_MAX, description="length of the records, decompressed")
    first_time: str = Field("", description="when the first event was written; empty: unknown")
    last_time: str = Field("", description="when the last event was written; empty: unknown")


def encode(head: SegmentHead, records: Sequence[ChunkRecord]) -> bytes:
    """Return the bytes of a segment; `head.body_bytes` is set here."""
    body = b"".join(chain.from_iterable(map(record_parts, records)))
    if len(body) > BODY_BYTES_MAX:
        raise InvalidSegment(f"the records {head.first} to {head.last} are {len(body)} bytes, too many for one segment")
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(body)
    raw = MAGIC + bytes([VERSION]) + framed(head.model_copy(update={"body_bytes": len(body)})) + packed
    return raw + blake3(raw).digest()


def decode(raw: bytes) -> tuple[SegmentHead, list[ChunkRecord]]:
    """Read a whole segment; raise `InvalidSegment` unless it is exactly what was sealed.

    Whether its records follow from each other is another question: see `events.segment`.
    """
    if raw[: len(MAGIC)] != MAGIC:
        raise InvalidSegment("this is no segment of a log")
    if raw[len(MAGIC) : len(MAGIC) + 1] != bytes([VERSION]):
        raise InvalidSegment(f"the segment is not of version {VERSION}: use a newer Forge")
    view = memoryview(raw)[:-_DIGEST_BYTES]
    if blake3(view).digest() != raw[-_DIGEST_BYTES:]:
        raise InvalidSegment("the segment was cut off or altered: its checksum does not match")
    try:
        part, at = part_at(view, len(MAGIC) + 1, HEAD_BYTES_MAX)
        head = SegmentHead.model_validate_json(part)
        return head, _records(head, view[at:])
    except (struct.error, ValidationError, InvalidChunk, zstandard.ZstdError) as error:
        raise InvalidSegment(f"the segment is not readable: {error}") from error


def _records(head: SegmentHead, packed: memoryview) -> list[ChunkRecord]:
    if zstandard.frame_content_size(packed) != head.body_bytes:
        raise InvalidSegment("the segment does not hold as many bytes as its head says")
    body = memoryview(zstandard.ZstdDecompressor().decompress(packed, max_output_size=head.body_bytes))
    records, at = [], 0
    for _ in range(head.count):
        record, at = record_at(body, at)
        records.append(record)
    if at != len(body):
        raise InvalidSegment(f"{len(body) - at} bytes follow the last record of the segment")
    return records
