"""The histories of all documents, read from the log: any place in them, what follows it, and what comes."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

from events.cursor import Cursor, Entry, Extent
from events.errors import LogDamaged
from events.log import Log
from events.read import read
from events.seek import extent, seek, seek_end, seek_index
from projectors.document.history.feed import Feed
from schemas.ids import PartitionId, Position
from schemas.problems import UNAVAILABLE, Refusal

PLACES_MAX = 4096
FOLLOWERS_MAX = 10_000
FEED_IDLE_S = 5.0  # whoever asks again and again finds the reader of the last time


class History:
    """Reads need no open document: the log alone is asked. `close` ends all live readers."""

    def __init__(self, event_log: Log) -> None:
        self._log = event_log
        self._places: OrderedDict[tuple[PartitionId, Position], Cursor] = OrderedDict()
        self._feeds: dict[PartitionId, tuple[Feed, asyncio.Task[None]]] = {}
        self._followers = 0

    async def place(self, partition: PartitionId, position: Position) -> Cursor:
        """Return the cursor at `position`; raise what `events.seek.seek` raises. Recent places are remembered."""
        if known := self._places.get((partition, position)):
            self._places.move_to_end((partition, position))
            return known
        cursor = await seek(self._log.reader, partition, position)
        self._remember(partition, cursor)
        return cursor

    async def place_of(self, partition: PartitionId, index: int) -> Cursor:
        """Return the cursor after record `index`; raise what `events.seek.seek` raises."""
        return await seek_index(self._log.reader, partition, index)

    async def end(self, partition: PartitionId) -> Cursor:
        """Return the cursor after the last record."""
        return await seek_end(self._log.reader, partition)

    async def extent(self, partition: PartitionId) -> Extent:
        """Return the positions of the first and the last record."""
        return await extent(self._log.reader, partition)

    async def read(self, partition: PartitionId, after: Cursor) -> AsyncGenerator[Entry]:
        """Yield the records after `after` that are there now; remember where the reader stopped."""
        cursor = after
        try:
            async for entry in read(self._log.reader, partition, after):
                cursor = entry.cursor
                yield entry
        except LogDamaged:
            self._places.clear()  # a remembered place may be of a log that is no more
            raise
        finally:
            self._remember(partition, cursor)

    def _remember(self, partition: PartitionId, cursor: Cursor) -> None:
        self._places[partition, cursor.position] = cursor
        while len(self._places) > PLACES_MAX:
            self._places.popitem(last=False)

    @asynccontextmanager
    async def following(self, partition: PartitionId) -> AsyncIterator[Feed]:
        """Give the live reader of a document, which all its followers share; raise `Refusal` (503) past the bound."""
        if self._followers >= FOLLOWERS_MAX:
            raise Refusal(UNAVAILABLE.problem(f"{FOLLOWERS_MAX} readers follow documents here already"))
        feed = self._feed(partition)
        feed.followers += 1
        self._followers += 1
        try:
            yield feed
        finally:
            feed.followers -= 1
            self._followers -= 1
            asyncio.get_running_loop().call_later(FEED_IDLE_S, self._end_idle, partition)

    def _feed(self, partition: PartitionId) -> Feed:
        found = self._feeds.get(partition)
        if found and not found[0].broken:
            return found[0]
        feed = Feed(self._log, partition)
        self._feeds[partition] = feed, asyncio.create_task(feed.run(), name=f"feed of {partition}")
        return feed

    def _end_idle(self, partition: PartitionId) -> None:
        found = self._feeds.get(partition)
        if found and not found[0].followers:
            del self._feeds[partition]
            found[1].cancel()

    async def close(self) -> None:
        """End all live readers."""
        tasks = [task for _, task in self._feeds.values()]
        self._feeds.clear()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
