"""Waiting until the archive has reached a position."""

import asyncio
from contextlib import suppress

from events.archive import Archive
from events.archived_place import recorded_place
from schemas.ids import PartitionId, Position
from workers.generations.failures import NotArchived

WAIT_S = 30.0
POLL_S = 1.0


class Arrivals:
    """`tell` says that the archive has moved on, `wait` waits for it."""

    def __init__(self, archive: Archive, *, wait_s: float = WAIT_S) -> None:
        self._archive = archive
        self._wait_s = wait_s
        self._waiting: dict[PartitionId, list[asyncio.Event]] = {}

    def tell(self, partition: PartitionId) -> None:
        """Let whoever waits for a partition look again."""
        for waiting in self._waiting.get(partition, ()):
            waiting.set()

    async def wait(self, partition: PartitionId, position: Position) -> None:
        """Return when all up to `position` is archived; raise `NotArchived`, and what reading the store raises."""
        news = asyncio.Event()
        self._waiting.setdefault(partition, []).append(news)
        try:
            async with asyncio.timeout(self._wait_s):
                while (await recorded_place(self._archive, partition)).cursor.position < position:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(POLL_S):
                            await news.wait()
                    news.clear()
        except TimeoutError as error:
            raise NotArchived(f"{partition} is not archived up to {position} after {self._wait_s:g} s") from error
        finally:
            self._waiting[partition].remove(news)
            if not self._waiting[partition]:
                del self._waiting[partition]
