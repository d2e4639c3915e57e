"""The keys of the archive, each with its one parse and format, and the small objects that say how far it is.

<prefix>/log/<stream>/<partition>/<epoch>/<first>-<last>.seg    sealed records, see `schemas.segment`
<prefix>/log/<stream>/<partition>/position.json                 how far a partition is archived
<prefix>/log/<stream>/mark.json                                 how far a stream was looked through
<prefix>/epochs/<epoch>.json                                    what of earlier epochs counts
<prefix>/payloads/<aa>/<cid>                                    bytes that an archived record refers to
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.facts import Instant
from schemas.ids import START, InvalidId, PartitionId, Position, parse_cid

INDEX_DIGITS = 20  # as long as 64 bits need, so that keys are in the order of what they hold
_PART = r"[A-Za-z0-9._-]*[A-Za-z0-9_-][A-Za-z0-9._-]*"  # dots alone are no name of a folder
PREFIX_PATTERN = rf"^{_PART}(/{_PART})*$"
_SEGMENT = re.compile(
    rf"log/(?P<stream>[A-Z_]+)/(?P<partition>[a-z]+(\.[a-z0-9_-]+)?)/(?P<epoch>[0-9]{{1,20}})/"
    rf"(?P<first>[0-9]{{{INDEX_DIGITS}}})-(?P<last>[0-9]{{{INDEX_DIGITS}}})\.seg"
)
EPOCHS = "epochs/"
PAYLOADS = "payloads/"
_EPOCH = re.compile(rf"epochs/([0-9]{{{INDEX_DIGITS}}})\.json")


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
        partition = PartitionId.of_token(found["partition"])
        key = cls(found["stream"], partition, int(found["epoch"]), int(found["first"]), int(found["last"]))
        if not 1 <= key.first <= key.last or str(key) != text:
            raise InvalidId(f"not the key of a segment: {text[:200]!r}")
        return key

    def __str__(self) -> str:
        before = segments_of(self.stream, self.partition, self.epoch)
        return f"{before}{self.first:0{INDEX_DIGITS}}-{self.last:0{INDEX_DIGITS}}.seg"


def partitions_of(stream: str) -> str:
    """Return what the keys of all partitions of a stream begin with; what follows, up to a slash, is a token."""
    return f"log/{stream}/"


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
    return f"{PAYLOADS}{cid[:2]}/{cid}"


def parse_payload_key(text: str) -> str:
    """Return the content hash of the payload under a key; raise `InvalidId`."""
    cid = text.rpartition("/")[2]
    if payload_key(cid) != text:
        raise InvalidId(f"not the key of a payload: {text[:200]!r}")
    return cid


def epoch_key(epoch: int) -> str:
    """Return the key of an `EpochTable`; keys are in the order of their epochs."""
    return f"{EPOCHS}{epoch:0{INDEX_DIGITS}}.json"


def parse_epoch_key(text: str) -> int:
    """Return the epoch of the table under a key; raise `InvalidId`."""
    if not (found := _EPOCH.fullmatch(text)):
        raise InvalidId(f"not the key of an epoch: {text[:200]!r}")
    return int(found[1])


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
    teller: str = Field("", description="who counts: new whenever an archiver starts")
    told: int = Field(0, ge=0, description="how many changes its archiver has told of")
    changed: tuple[str, ...] = Field((), description="the tokens of the partitions of the newest of them, in order")
    busy: tuple[str, ...] | None = Field(
        None, description="the tokens of the partitions of which more may be stored than it tells; without it, any"
    )
    seen: int = Field(0, ge=0, description="the newest message of the stream that was there")


class Span(NamedTuple):
    """The records `first` to `last` of a history, which were written in one epoch; None: as many as there are."""

    epoch: int
    first: int
    last: int | None

    def holds(self, index: int) -> bool:
        """Say whether a record is of this span."""
        return self.first <= index and (self.last is None or index <= self.last)


class EpochTable(_Stored):
    """What of earlier epochs counts, as the writer who began `epoch` found it.

    Whatever was stored later by a writer of an earlier epoch, who does not know yet that it is one, is no history.
    """

    epoch: int = Field(1, ge=1)
    ends: dict[str, tuple[tuple[int, int], ...]] = Field(
        {}, description="by the token of a partition: each earlier epoch that has records, and the index of the last"
    )
    node: str = Field("", description="who began the epoch")
    time: Instant | None = Field(None, description="when")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for token, ends in self.ends.items():
            epochs, indexes = [0, *(end[0] for end in ends), self.epoch], [0, *(end[1] for end in ends)]
            if sorted({*epochs}) != epochs or sorted({*indexes}) != indexes:
                raise ValueError(f"the epochs of {token} do not follow each other: {ends}")
        return self

    def spans(self, partition: PartitionId) -> Iterator[Span]:
        """Yield the spans of a partition's history in order; the last one is this epoch's, and open."""
        first = 1
        for epoch, last in self.ends.get(partition.token, ()):
            yield Span(epoch, first, last)
            first = last + 1
        yield Span(self.epoch, first, None)

    def knows(self, partition: PartitionId, position: Position) -> bool:
        """Say whether `position` is of the history: written in the epoch to which its index belongs."""
        if not position.index:
            return position == START
        return any(span.epoch == position.epoch and span.holds(position.index) for span in self.spans(partition))
