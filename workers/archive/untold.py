"""Partitions of which the store holds more than its positions say, and since when."""

import time
from typing import NamedTuple

from schemas.ids import PartitionId

UNTOLD_MAX = 1024  # partitions; the next one is told at once
TOLD_AT_ONCE = 16  # then it is looked whether anything is to be sealed, which does not wait for this


class _Since(NamedTuple):
    at: float
    mark: int


class Untold:
    """A position is told `every_s` after the first segment that it does not speak of."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._since: dict[PartitionId, _Since] = {}  # in the order in which they came

    def note(self, partition: PartitionId, mark: int) -> None:
        """Note that a partition was archived; before that, everything was up to `mark`."""
        self._since.setdefault(partition, _Since(time.monotonic(), mark))

    def told(self, partition: PartitionId) -> None:
        """Note that the store says it, or never will."""
        self._since.pop(partition, None)

    @property
    def is_full(self) -> bool:
        """Whether no more may wait."""
        return len(self._since) >= UNTOLD_MAX

    @property
    def all(self) -> list[PartitionId]:
        """All of them."""
        return list(self._since)

    def due_s(self) -> float | None:
        """Return in how many seconds the first is due, None if there is none."""
        first = next(iter(self._since.values()), None)
        return None if first is None else max(0.0, first.at + self._every_s - time.monotonic())

    def due(self) -> list[PartitionId]:
        """Return those that are due, a few at a time."""
        before = time.monotonic() - self._every_s
        return [partition for partition, since in self._since.items() if since.at <= before][:TOLD_AT_ONCE]

    def mark(self, mark: int) -> int:
        """Return how far a stream may count as looked through, if all up to `mark` is archived.

        Not further than what is told: whoever begins there finds what is not, and tells it.
        """
        return min([mark, *(since.mark for since in self._since.values())])
