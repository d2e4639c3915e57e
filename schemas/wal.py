"""A slice of a partition's history as bytes: the chunks that replicas are fed with.

    magic "FORGEWAL", version (1 byte)
    length (4 bytes), head: JSON, see `ChunkHead`
    `head.count` times: length (4 bytes), JSON, see `RecordHead`; length (4 bytes), payload
    BLAKE3-256 of everything before (32 bytes)

Lengths are little endian. Unknown fields of the JSON parts are ignored.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError

CONTENT_TYPE = "application/vnd.forge.wal"
MAGIC = b"FORGEWAL"
VERSION = 1
HEAD_BYTES_MAX = 16 << 10
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32


class InvalidChunk(ValueError):
    """Bytes are not a whole, unaltered chunk that this version can read; the message says why."""


class _Head(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class ChunkHead(_Head):
    """What a chunk holds, and where its partition stands. Positions are `epoch.index`, hashes those of the chain."""

    db_id: str
    partition: str = Field(description="the log subject")
    after: str = Field(alias="from", description="position before the first record of the chunk")
    after_hash: str = Field(alias="from_hash", description="hash of the record there")
    next: str = Field(description="position of the last record: ask from there next; never null")
    next_hash: str = Field(description="hash of the record there")
    head: str = Field(description="position of the last record of the log")
    floor: str = Field(description="position of the first record of the log")
    eof: bool = Field(description="whether nothing followed when the chunk was made")
    count: int = Field(ge=0, description="records in the chunk")


class RecordHead(_Head):
    """What a record says beside its payload; `sequence` is a hint where its log keeps it."""

    position: str
    previous: str
    id: str
    node: str
    content_type: str
    encoding: str = ""
    sequence: int = 0


class ChunkRecord(NamedTuple):
    """One record of a chunk."""

    head: RecordHead
    payload: bytes


def encode(head: ChunkHead, records: Sequence[ChunkRecord]) -> Iterator[bytes]:
    """Yield the bytes of a chunk in parts; a payload is a part of its own."""
    digest = blake3()
    for part in _parts(head, records):
        digest.update(part)
        yield part
    yield digest.digest()


def size(head: ChunkHead, records: Sequence[ChunkRecord]) -> int:
    """Return how many bytes `encode` yields."""
    return sum(map(len, _parts(head, records))) + _DIGEST_BYTES


def _parts(head: ChunkHead, records: Sequence[ChunkRecord]) -> Iterator[bytes]:
    yield MAGIC + bytes([VERSION]) + framed(head)
    for record in records:
        yield from record_parts(record)


def framed(model: BaseModel) -> bytes:
    """Return a JSON part with its length before it."""
    raw = model.model_dump_json(by_alias=True).encode()
    return _LENGTH.pack(len(raw)) + raw


def decode(raw: bytes) -> tuple[ChunkHead, list[ChunkRecord]]:
    """Read a whole chunk; raise `InvalidChunk` unless it is exactly what was sent.

    Whether its records follow from what the reader has is another question: see `events.chunk`.
    """
    if raw[: len(MAGIC)] != MAGIC:
        raise InvalidChunk("this is no chunk of a log")
    if raw[len(MAGIC) : len(MAGIC) + 1] != bytes([VERSION]):
        raise InvalidChunk(f"the chunk is not of version {VERSION}: use a newer Forge")
    view = memoryview(raw)[:-_DIGEST_BYTES]
    if blake3(view).digest() != raw[-_DIGEST_BYTES:]:
        raise InvalidChunk("the chunk was cut off or altered: its checksum does not match")
    at = len(MAGIC) + 1
    try:
        part, at = part_at(view, at, HEAD_BYTES_MAX)
        head = ChunkHead.model_validate_json(part)
        records = []
        for _ in range(head.count):
            record, at = record_at(view, at)
            records.append(record)
    except (struct.error, ValidationError) as error:
        raise InvalidChunk(f"the chunk is not readable: {error}") from error
    if at != len(view):
        raise InvalidChunk(f"{len(view) - at} bytes follow the last record of the chunk")
    return head, records


def record_parts(record: ChunkRecord) -> Iterator[bytes]:
    """Yield a record's bytes in two parts, of which the second is its payload."""
    yield framed(record.head) + _LENGTH.pack(len(record.payload))
    yield record.payload


def record_at(view: memoryview, at: int) -> tuple[ChunkRecord, int]:
    """Return the record at `at`, and where the next one begins; raise what reading a part raises."""
    part, at = part_at(view, at, HEAD_BYTES_MAX)
    payload, at = part_at(view, at, len(view))
    return ChunkRecord(RecordHead.model_validate_json(part), payload), at


def part_at(view: memoryview, at: int, bytes_max: int) -> tuple[bytes, int]:
    """Return the framed part at `at`, and where the next one begins."""
    (length,) = _LENGTH.unpack_from(view, at)
    at += _LENGTH.size
    if length > bytes_max or at + length > len(view):
        raise InvalidChunk(f"a part of {length} bytes does not fit into the chunk")
    return bytes(view[at : at + length]), at + length
