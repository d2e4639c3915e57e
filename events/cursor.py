"""Places in the history of a partition, and the records there."""

from dataclasses import dataclass
from typing import NamedTuple

from events.record import Record, genesis
from schemas.ids import START, PartitionId, Position


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a reader stands: its position, the hash of the record there, and a hint where the server keeps it."""

    position: Position
    hash: str
    sequence: int

    @classmethod
    def start(cls, partition: PartitionId) -> "Cursor":
        """Return the cursor before the first record."""
        return cls(START, genesis(partition), 0)


class Entry(NamedTuple):
    """A record as it stands in the log, and the cursor after it."""

    record: Record
    cursor: Cursor


class Extent(NamedTuple):
    """The first and the last record that the log holds; both are `START` while it holds none."""

    floor: Position
    head: Position
