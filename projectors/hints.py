"""Hints on core NATS that a partition has news. Losing one costs a follower a moment, never data."""

import asyncio
from contextlib import suppress

from events.connection import Connection
from events.errors import LogError
from schemas.ids import PartitionId, Position

PAUSE_S = 0.005  # a follower that reads in batches gains nothing from more


class Hints:
    """Tells `forge.live.<partition>` about the newest position, not more often than each `PAUSE_S`."""

    def __init__(self, live: Connection, partition: PartitionId) -> None:
        self._live = live
        self._subject = partition.live_subject
        self._position = b""
        self._news = asyncio.Event()

    def tell(self, position: Position) -> None:
        """Note that the partition has reached `position`."""
        self._position = str(position).encode()
        self._news.set()

    async def run(self) -> None:
        """Send for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            with suppress(LogError):
                await self._live.send(self._subject, self._position)
            await asyncio.sleep(PAUSE_S)
