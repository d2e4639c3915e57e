"""The keys of the archive, each with its one parse and format, and the small objects that say how far it is.

<prefix>/log/<stream>/<partition>/<epoch>/<first>-<last>.seg    sealed records, see `schemas.segment`
<prefix>/log/<stream>/<partition>/position.json                 how far a partition is archived
<prefix>/log/<stream>/mark.json                                 how far a stream was looked through
<prefix>/payloads/<aa>/<cid>                                    bytes that an archived record refers to
"""

import re
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from schemas.facts import Instant
from schemas.ids import InvalidId, PartitionId, Position, parse_cid

INDEX_DIGITS = 20  # as long as 64 bits need, so that keys are in the order of what they hold
PREFIX_PATTERN = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"
_SEGMENT = re.compile(
    rf"log/(?P<stream>[A-Z_]+)/(?P<partition>[a-z]+(\.[a-z0-9_-]+)?)/(?P<epoch>[0-9]{{1,20}})/"
    rf"(?P<first>[0-9]{{{INDEX_DIGITS}}})-(?P<last>[0-9]{{{INDEX_DIGITS}}})\.seg"
)


@dataclass(frozen=True, slots=True)
class SegmentKey:
    """The key of one segment, below the prefix: records `first` to `last` of one epoch of a partition."""

    stream: str
    partition: PartitionId
    epoch: int
    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a key; raise `InvalidId`."""
        if not (found := _SEGMENT.fullmatch(text)):
            raise InvalidId(f"not the key of a segment: {text[:200]!r}")
        partition = PartitionId.parse(f"forge.log.{found['partition']}")
        key = cls(found["stream"], partition, int(found["epoch"]), int(found["first"]), int(found["last"]))
        if not 1 <= key.first <= key.last or str(key) != text:
            raise InvalidId(f"not the key of a segment: {text[:200]!r}")
        return key

    def __str__(self) -> str:
        before = segments_of(self.stream, self.partition, self.epoch)
        return f"{before}{self.first:0{INDEX_DIGITS}}-{self.last:0{INDEX_DIGITS}}.seg"


def segments_of(stream: str, partition: PartitionId, epoch: int) -> str:
    """Return what the keys of all segments of a partition's epoch begin with."""
    return f"log/{stream}/{partition.token}/{epoch}/"


def segments_from(stream: str, partition: PartitionId, position: Position) -> str:
    """Return the key after which, in a listing, those segments come that begin at `position` or later."""
    return f"{segments_of(stream, partition, position.epoch)}{position.index:0{INDEX_DIGITS}}"


def place_key(stream: str, partition: PartitionId) -> str:
    """Return the key of a partition's `ArchivedPlace`."""
    return f"log/{stream}/{partition.token}/position.json"


def mark_key(stream: str) -> str:
    """Return the key of a stream's `Mark`."""
    return f"log/{stream}/mark.json"


def payload_key(cid: str) -> str:
    """Return the key of a payload; raise `InvalidId` for what is no content hash."""
    cid = parse_cid(cid)
    return f"payloads/{cid[:2]}/{cid}"


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ArchivedPlace(_Stored):
    """How far a partition is archived: everything up to `position` is in segments."""

    partition: str = Field(description="the log subject")
    position: str = Field(description="`epoch.index` of the last archived record")
    hash: str = Field(description="hash of that record in the chain")
    sequence: int = Field(description="where its log kept it, a hint")
    time: Instant | None = Field(None, description="when the last archived event was written")
    node: str = Field("", description="who archived it")


class Mark(_Stored):
    """How far a stream was looked through: every message up to `sequence` is archived."""

    sequence: int
    created: str = Field(description="when the stream was made: a number is of that stream alone")
