"""One reader of a document's log for all who follow it live.

The newest records stand in a bounded ring. A follower that is behind the ring reads the log by itself until the ring
has what it needs next; both sides of that seam are checked by the hash chain, so nothing is missed or seen twice.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from events.cursor import Cursor, Entry
from events.envelope import Event, decode_events
from events.errors import ChainMismatch, LogError, LogUnavailable
from events.log import Log
from events.read import follow, read
from events.seek import seek_end
from schemas.facts import Fact
from schemas.ids import PartitionId

RING_RECORDS = 256
RING_BYTES = 1 << 20
MADE_RECORDS = 64  # so many of the newest keep what was made of them for the next follower
MADE_PAYLOAD_BYTES = 4096
FRAMES_BYTES = 16 << 10
RETRY_S = 0.5


@dataclass(slots=True)
class Passing:
    """A record on its way to followers; what is made of a small one is made once for all of them."""

    entry: Entry
    frames: bytes | None = None
    _events: list[Event] | None = field(default=None, repr=False)
    _keeps: bool = True

    def events(self, facts: Mapping[str, type[Fact]]) -> list[Event]:
        """Return its events; raise `MalformedRecord` or `UnknownEvent`."""
        if self._events is not None:
            return self._events
        events = decode_events(self.entry.record.json(), facts)
        if self._keeps and len(self.entry.record.payload) <= MADE_PAYLOAD_BYTES:
            self._events = events
        return events

    def keep(self, frames: bytes) -> None:
        """Keep the frames of those who want everything, if they are small."""
        if self._keeps and len(frames) <= FRAMES_BYTES:
            self.frames = frames

    def forget(self) -> None:
        """Keep nothing from now on: most followers have passed."""
        self._keeps = False
        self.frames = self._events = None


class Feed:
    """The live end of one document's log. `run` is its reader; any number of `follow` read from it."""

    def __init__(self, event_log: Log, partition: PartitionId) -> None:
        self._log = event_log
        self._partition = partition
        self._ring: deque[Passing] = deque()
        self._size = 0
        self._before: Cursor | None = None  # where the ring begins; None until the end of the log is known
        self._end: Cursor | None = None
        self._news = asyncio.Event()
        self.broken: LogError | None = None
        self.followers = 0

    async def run(self) -> None:
        """Read for ever; a damaged log ends it, and every follower is told."""
        while True:
            try:
                end = self._end or await seek_end(self._log.reader, self._partition)
                if self._before is None:
                    self._before = self._end = end
                    self._tell()
                async with aclosing(follow(self._log.reader, self._log.live, self._partition, end)) as entries:
                    async for entry in entries:
                        self._add(Passing(entry))
            except LogUnavailable:
                await asyncio.sleep(RETRY_S)
            except LogError as error:
                self.broken = error
                self._tell()
                return

    def _add(self, passing: Passing) -> None:
        self._ring.append(passing)
        self._end = passing.entry.cursor
        self._size += len(passing.entry.record.payload)
        if len(self._ring) > MADE_RECORDS:
            self._ring[-1 - MADE_RECORDS].forget()
        while len(self._ring) > RING_RECORDS or (self._size > RING_BYTES and len(self._ring) > 1):
            gone = self._ring.popleft().entry
            self._size -= len(gone.record.payload)
            self._before = gone.cursor
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self, after: Cursor) -> AsyncGenerator[Passing]:
        """Yield every record after `after`, and then each new one, for ever. Raise `LogDamaged`, as `read` does."""
        async with aclosing(self.follow_awake(after, None)) as passings:
            async for passing in passings:
                if passing is not None:
                    yield passing

    async def follow_awake(self, after: Cursor, wake_s: float | None) -> AsyncGenerator[Passing | None]:
        """Do as `follow` does, and yield None whenever nothing has come for `wake_s`."""
        cursor = after
        while True:
            if self.broken:
                raise self.broken
            if self._before is not None and cursor.position < self._before.position:
                async with aclosing(self._read_alone(cursor)) as entries:
                    async for entry in entries:
                        cursor = entry.cursor
                        yield Passing(entry)
                yield None
            elif passing := self._next(cursor):
                cursor = passing.entry.cursor
                yield passing
            elif not await self._news_within(wake_s):
                yield None

    async def _news_within(self, wait_s: float | None) -> bool:
        try:
            async with asyncio.timeout(wait_s):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def _read_alone(self, cursor: Cursor) -> AsyncGenerator[Entry]:
        """Yield records from the log until the ring goes on from there, or the log cannot be read now."""
        try:
            async for entry in read(self._log.reader, self._partition, cursor):
                yield entry
                if self._before is not None and entry.cursor.position >= self._before.position:
                    return
        except LogUnavailable:
            pass
        await asyncio.sleep(RETRY_S)

    def _next(self, cursor: Cursor) -> Passing | None:
        """Return the record of the ring that follows `cursor`, if it has come; the ring must reach back that far."""
        if self._before is None:
            return None
        at = cursor.position.index - self._before.position.index
        if at >= len(self._ring):
            return None
        passing = self._ring[at]
        if passing.entry.record.previous != cursor.hash:
            raise ChainMismatch(f"{self._partition}: the live record {passing.entry.cursor.position} does not follow")
        return passing
