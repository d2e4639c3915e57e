"""Waiting until the archive has reached a position."""

import asyncio
from collections import OrderedDict
from contextlib import suppress

from events.archive import Archive
from events.archived_place import recorded_place
from schemas.ids import PartitionId, Position
from workers.generations.failures import NotArchived

WAIT_S = 30.0
POLL_S = 1.0
REACHED_MAX = 4096  # partitions whose position is remembered; of others the store tells it, some seconds later


class Arrivals:
    """`tell` says that the archive has moved on, `wait` waits for it."""

    def __init__(self, archive: Archive, *, wait_s: float = WAIT_S) -> None:
        self._archive = archive
        self._wait_s = wait_s
        self._reached: OrderedDict[PartitionId, Position] = OrderedDict()
        self._waiting: dict[PartitionId, list[asyncio.Event]] = {}

    def tell(self, partition: PartitionId, position: Position) -> None:
        """Note that the archive holds a partition up to `position`, and let whoever waits for that look again."""
        self._reached[partition] = position
        self._reached.move_to_end(partition)
        if len(self._reached) > REACHED_MAX:
            self._reached.popitem(last=False)
        for waiting in self._waiting.get(partition, ()):
            waiting.set()

    async def wait(self, partition: PartitionId, position: Position) -> None:
        """Return when all up to `position` is archived; raise `NotArchived`, and what reading the store raises."""
        news = asyncio.Event()
        self._waiting.setdefault(partition, []).append(news)
        try:
            async with asyncio.timeout(self._wait_s):
                while not await self._has(partition, position):
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

    async def _has(self, partition: PartitionId, position: Position) -> bool:
        reached = self._reached.get(partition)
        if reached is not None and reached >= position:
            return True
        return (await recorded_place(self._archive, partition)).cursor.position >= position
