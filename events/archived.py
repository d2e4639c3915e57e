"""What reading the log asks of an archive, if there is one."""

from collections.abc import AsyncGenerator
from typing import Protocol

from events.cursor import Cursor, Entry
from schemas.ids import PartitionId, Position


class Archived(Protocol):
    """Records that the server may hold no longer. Raises what reading the log raises."""

    def read(self, partition: PartitionId, after: Cursor, until: Position) -> AsyncGenerator[Entry]:
        """Yield the archived records after `after` and before `until`, in order."""

    async def cursor_at(self, partition: PartitionId, position: Position) -> Cursor | None:
        """Return the cursor after the record at `position`, None if the archive does not hold it."""

    async def cursor_of(self, partition: PartitionId, index: int) -> Cursor | None:
        """Return the cursor after record `index`, in whichever epoch it was written, None if it is not held."""

    async def knows(self, partition: PartitionId, position: Position) -> bool:
        """Say whether `position` is of the history that counts, as far as epochs tell: it may not be written yet."""

    async def cursor_before(self, partition: PartitionId, end: Position, instant: str) -> Cursor | None:
        """Return the cursor after the last record before `end` that was written at or before `instant`, or None."""

    async def floor(self, partition: PartitionId) -> Position | None:
        """Return the position of the first archived record, None if there is none."""
