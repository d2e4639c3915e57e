"""One record: the events of one commit, as one JetStream message (or one atomic batch when large).

Headers and their meaning stand in docs/log.md. The hash chain covers everything that a record says, but not
the expected sequence: numbers of the stream change when a log is restored, history does not.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zstandard
from blake3 import blake3
from pydantic_core import from_json

from events.errors import MalformedRecord
from schemas.ids import InvalidId, PartitionId, Position

PART_BYTES_MAX = 4 << 20  # payload of one message; the server's max_payload is twice that
RECORD_BYTES_MAX = 256 << 20  # payload of one record before compression, a bound for readers' memory
COMPRESS_FROM_BYTES = 512
CONTENT_TYPE = "application/cloudevents-batch+json"
_LEVEL = 1  # measured on batches of small events: 16 us for 120 KB, a factor over 100


@dataclass(frozen=True, slots=True)
class Record:
    """One commit of one partition, with what it says of its place in history."""

    partition: PartitionId
    position: Position
    previous: str
    id: str
    node: str
    payload: bytes
    encoding: str = ""

    @property
    def hash(self) -> str:
        """What the next record names as its previous one: 16 bytes of BLAKE3, hex."""
        digest = blake3()
        for part in (
            self.partition.subject,
            self.id,
            str(self.position),
            self.previous,
            self.node,
            CONTENT_TYPE,
            self.encoding,
        ):
            digest.update(part.encode() + b"\0")
        return digest.update(self.payload).hexdigest(16)

    @property
    def json_bytes(self) -> int:
        """How long `json` is, as the payload tells: more than can be, if it is damaged."""
        if self.encoding != "zstd":
            return len(self.payload)
        try:
            told = zstandard.frame_content_size(self.payload)
        except zstandard.ZstdError:
            told = -1
        return told if told >= 0 else RECORD_BYTES_MAX + 1

    def json(self) -> bytes:
        """Return the JSON array of events; raise `MalformedRecord` if it cannot be unpacked."""
        try:
            return _decompressed(self.payload) if self.encoding == "zstd" else self.payload
        except (ValueError, zstandard.ZstdError) as error:
            raise MalformedRecord(f"record {self.position} of {self.partition} ({self.id}): {error}") from error

    def envelopes(self) -> list[dict[str, Any]]:
        """Return the events as parsed JSON objects; raise `MalformedRecord` if they are none."""
        try:
            batch = from_json(self.json())
        except ValueError as error:
            raise MalformedRecord(f"record {self.position} of {self.partition} ({self.id}): {error}") from error
        if not isinstance(batch, list) or not all(isinstance(event, dict) for event in batch):
            raise MalformedRecord(f"record {self.position} of {self.partition} ({self.id}) is not a list of events")
        return batch


def genesis(partition: PartitionId) -> str:
    """Return what the first record of a partition names as its previous one."""
    return blake3(f"forge.genesis {partition.subject}".encode()).hexdigest(16)


def encode_payload(events: Sequence[bytes]) -> tuple[bytes, str]:
    """Join encoded events into a payload; return it with its content encoding."""
    raw = b"[" + b",".join(events) + b"]"
    if len(raw) < COMPRESS_FROM_BYTES:
        return raw, ""
    return zstandard.ZstdCompressor(level=_LEVEL).compress(raw), "zstd"


def _decompressed(payload: bytes) -> bytes:
    # `max_output_size` bounds only frames that do not name their size.
    if zstandard.frame_content_size(payload) > RECORD_BYTES_MAX:
        raise ValueError(f"it is larger than {RECORD_BYTES_MAX} bytes when decompressed")
    try:
        decompressor = _of_thread.decompressor
    except AttributeError:
        decompressor = _of_thread.decompressor = zstandard.ZstdDecompressor()  # takes longer than a small record
    raw: bytes = decompressor.decompress(payload, max_output_size=RECORD_BYTES_MAX)
    return raw


_of_thread = threading.local()


@dataclass(frozen=True, slots=True)
class Message:
    """One JetStream message as it goes to, or comes from, the server."""

    subject: str
    headers: dict[str, str]
    payload: bytes
    sequence: int = 0


def to_messages(record: Record, expected_sequence: int, *, copy: str = "") -> list[Message]:
    """Return the messages of `record`: one, or the parts of an atomic batch in order.

    `copy` tells them apart from those of the same record that the server may have had before.
    """
    payload = record.payload
    parts = [payload[at : at + PART_BYTES_MAX] for at in range(0, len(payload), PART_BYTES_MAX)] or [b""]
    messages = []
    for number, part in enumerate(parts, start=1):
        headers = {
            "Nats-Msg-Id": record.id if len(parts) == 1 and not copy else f"{record.id}.{number}{copy and '.'}{copy}",
            "Forge-Position": str(record.position),
            "Forge-Previous": record.previous,
            "Forge-Node": record.node,
            "Content-Type": CONTENT_TYPE,
        }
        if record.encoding:
            headers["Content-Encoding"] = record.encoding
        if number == 1:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expected_sequence)
        if len(parts) > 1:
            headers |= {"Nats-Batch-Id": record.id, "Nats-Batch-Sequence": str(number)}
            if number == len(parts):
                headers["Nats-Batch-Commit"] = "1"
        messages.append(Message(record.partition.subject, headers, part))
    return messages


def message_record_id(headers: Mapping[str, str]) -> str:
    """Return the id of the record that a message belongs to, empty if it has none."""
    return headers.get("Nats-Msg-Id", "").partition(".")[0]


def from_messages(messages: Sequence[Message]) -> Record:
    """Read a record from its message or from all messages of its batch, in order."""
    first = messages[0]
    headers = first.headers
    try:
        record = Record(
            partition=PartitionId.parse(first.subject),
            position=Position.parse(headers["Forge-Position"]),
            previous=headers["Forge-Previous"],
            id=message_record_id(headers),
            node=headers["Forge-Node"],
            payload=first.payload if len(messages) == 1 else b"".join(m.payload for m in messages),
            encoding=headers.get("Content-Encoding", ""),
        )
    except (KeyError, InvalidId) as error:
        raise MalformedRecord(f"message {first.sequence} on {first.subject} is not a record: {error}") from error
    if headers.get("Content-Type") != CONTENT_TYPE or record.encoding not in ("", "zstd"):
        raise MalformedRecord(f"record {record.position} of {record.partition} has an unknown encoding")
    return record
