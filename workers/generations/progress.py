"""How far projections have come since their last generations, and which are due for a new one."""

from collections import OrderedDict
from dataclasses import dataclass

from schemas.ids import PartitionId, Position

PARTITIONS_MAX = 4096  # remembered; of others it is found out again when they are written
SHARE = 20  # a generation that took a second is followed by the next one after so many


@dataclass(frozen=True, slots=True)
class Policy:
    """A projection is due after so many archived records or bytes, and not before `every_s` have gone by."""

    records: int
    size_bytes: int
    every_s: float


@dataclass(slots=True)
class Progress:
    """One partition: how far it is archived, what came since the last generation, and when the next may be made."""

    archived: Position
    records: int = 0
    size_bytes: int = 0
    counted: bool = False  # whether `records` reaches back to the last generation; else only to the start of this node
    not_before: float = 0.0
    making: bool = False
    failures: int = 0
    trouble: str = ""


class Progresses:
    """All partitions that were archived lately."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._known: OrderedDict[PartitionId, Progress] = OrderedDict()

    def archived(self, partition: PartitionId, position: Position, records: int, size_bytes: int) -> Progress:
        """Note that records were archived, up to `position`."""
        progress = self._known.get(partition)
        if progress is None:
            # The first records of a partition, or so few that they cannot make it due, need no look at its generations.
            few = position.index < self._policy.records
            progress = Progress(position, records=position.index if few else records, counted=few)
            self._known[partition] = progress
        elif position > progress.archived:
            progress.records += position.index - progress.archived.index
            progress.archived = position
        self._known.move_to_end(partition)
        progress.size_bytes += size_bytes
        self._forget()
        return progress

    def is_due(self, progress: Progress) -> bool:
        """Say whether enough has come, as far as is known; of one that is not `counted` somebody has to look."""
        policy = self._policy
        return progress.records >= policy.records or progress.size_bytes >= policy.size_bytes

    def made(self, partition: PartitionId, position: Position, now_s: float, took_s: float) -> None:
        """Note that the projections of a partition have generations at `position` or later."""
        if progress := self._known.get(partition):
            progress.records, progress.size_bytes = max(0, progress.archived.index - position.index), 0
            progress.counted, progress.failures, progress.trouble = True, 0, ""
            progress.not_before = now_s + max(self._policy.every_s, SHARE * took_s)

    def find(self, partition: PartitionId) -> Progress | None:
        """Return what is known of a partition."""
        return self._known.get(partition)

    def troubles(self) -> dict[PartitionId, Progress]:
        """Return the partitions whose last attempt failed."""
        return {partition: progress for partition, progress in self._known.items() if progress.failures}

    def _forget(self) -> None:
        while len(self._known) > PARTITIONS_MAX:
            self._known.popitem(last=False)  # one that waits is found out again as well
