"""Follows one stream of the log and archives what it reads, in the order of the stream, within bounds of memory."""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from events.archive import Archive
from events.backoff import delay
from events.errors import LogDamaged, LogError, LogUnavailable
from events.log import Log
from events.objects.errors import StoreError, StoreUnavailable
from events.read import messages_on
from events.record import Message
from events.streams import Stream, stream_state
from events.tail import TAIL_BYTES_MAX, Tail
from schemas.ids import InvalidId, PartitionId
from workers.archive import metrics
from workers.archive.backlog import Backlog, Found
from workers.archive.marking import Marker
from workers.archive.pacing import Pace
from workers.archive.sealing import Sealer
from workers.archive.untold import Untold

LOOK_BYTES = TAIL_BYTES_MAX // 2  # looks when so much has come, before the tail forgets it
RETRY_S, RETRY_MAX_S = 0.5, 15.0

Work = tuple[PartitionId, Callable[[], Awaitable[None]]]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """A partition is sealed when its oldest record waits for `seal_s`, or `seal_bytes` wait.

    No more is read while `memory_bytes` wait. The store says how far it is archived after `tell_s` at the latest.
    """

    seal_s: float
    seal_bytes: int
    memory_bytes: int
    tell_s: float = 5.0


class StreamArchiver:
    """One stream. `run` goes on for ever; what it says of itself may be read at any time."""

    def __init__(
        self,
        stream: Stream,
        archive: Archive,
        event_log: Log,
        sealer: Sealer,
        bounds: Bounds,
        limit: asyncio.Semaphore,
    ) -> None:
        self.stream = stream
        self._log = event_log
        self._sealer = sealer
        self._bounds = bounds
        self._limit = limit
        self._pace = Pace(bounds.seal_s, min(bounds.seal_bytes, LOOK_BYTES))
        self._tail = Tail(self._pace.came)
        self._marker = Marker(archive, stream.name)
        self._untold = Untold(bounds.tell_s)
        self._appended_here = False  # what the last look found
        self._unlisten: Callable[[], None] | None = None
        self._failures = 0
        self.started_at = time.time()
        self.backlog: Backlog | None = None  # None until the store has told the mark
        self.trouble = ""
        self.stopped: dict[str, str] = {}

    async def run(self) -> None:
        """Archive for ever."""
        self._log.writer.tails[self.stream.name] = self._tail
        try:
            while True:
                try:
                    await self._listen()
                    if self.backlog is None:
                        self.backlog = await self._begin()
                    await self._round(self.backlog)
                    self.trouble, self._failures = "", 0
                except (LogUnavailable, StoreError) as error:
                    await self._later(str(error) or type(error).__name__)
                except Exception as error:
                    log.exception("archiving failed", stream=self.stream.name)
                    await self._later(repr(error))
        finally:
            del self._log.writer.tails[self.stream.name]
            if self._unlisten is not None:
                self._unlisten()

    async def flush(self) -> bool:
        """Archive what is there now, once; say whether that is all. Whatever fails is left for the next start.

        Of a partition that is archived no more it never is.
        """
        if self.backlog is None or self.trouble:
            return False
        self._tail.clear()  # only the server can say whether that is all
        try:
            while await self._look(self.backlog, math.inf):
                await self._archive_all(self.backlog)
            await self._archive_all(self.backlog)
            await self._tell(self.backlog, self._untold.all)
            await self._marker.save(self._untold.mark(self.backlog.mark))
        except (LogError, StoreError) as error:
            log.warning("not everything is archived", stream=self.stream.name, reason=str(error))
            return False
        return not self.stopped

    @property
    def _hint_subject(self) -> str:
        return self.stream.subject.replace("forge.log.", "forge.live.", 1)

    async def _listen(self) -> None:
        """Listen for what others append, unless something is appended here: then it is looked for often enough.

        To hear of each record costs more than to archive it.
        """
        if self._unlisten is not None and self._appended_here:
            self._unlisten()
            self._unlisten = None
        elif self._unlisten is None and not self._appended_here:
            self._unlisten = await self._log.live.listen(self._hint_subject, lambda _: self._pace.came())

    async def _begin(self) -> Backlog:
        """Return an empty backlog that stands where everything before is archived."""
        return Backlog(await self._marker.begin((await stream_state(self._log.reader, self.stream.name)).created))

    async def _round(self, backlog: Backlog) -> None:
        """Wait until something is due, read what is new, and archive what is due."""
        await self._wait(backlog)
        if self._pace.look_in_s <= 0:
            await self._read_on(backlog)
        await self._tell(backlog, self._untold.due())
        if self._marker.due_s(mark := self._untold.mark(backlog.mark)) == 0:
            await self._marker.save(mark)

    async def _read_on(self, backlog: Backlog) -> None:
        """Read what is new; archive what waits if it is due, or much."""
        before, due_at = backlog.sequence, self._pace.look()
        more = await self._look(backlog, due_at)
        full = backlog.size_bytes >= self._bounds.memory_bytes or backlog.largest() >= self._bounds.seal_bytes
        if full or more or time.monotonic() >= due_at:
            await self._archive_all(backlog)
        self._pace.looked(found=backlog.sequence != before, waits=backlog.records > 0, more=more)

    async def _look(self, backlog: Backlog, until: float) -> bool:
        """Read until nothing is new, memory is used up or something is due at `until`; say whether there may be more.

        Not until nothing is new alone: of a stream that is written all the time that would never be so. And a record
        that is larger than the bound has to be read to its end.
        """
        while backlog.size_bytes < self._bounds.memory_bytes or not backlog.records:
            appended = self._tail.take(backlog.sequence + 1)
            self._appended_here = bool(appended)
            if appended:
                self._take(backlog, appended)
                return False  # of what came since, and of what others append, there will be news
            batch = await messages_on(self._log.reader, self.stream.name, self.stream.subject, backlog.sequence + 1)
            if not batch:
                return False
            self._take(backlog, batch)
            if backlog.records and time.monotonic() >= until:
                break
        return True

    def _take(self, backlog: Backlog, messages: Sequence[Message]) -> None:
        for message in messages:
            try:
                backlog.take(message)
            except LogDamaged as error:
                self._stop(backlog, PartitionId.parse(message.subject), error)
            except InvalidId as error:
                self.stopped[message.subject] = str(error)

    async def _archive_all(self, backlog: Backlog) -> None:
        """Archive what waits, several partitions at a time; raise the last reason to try again."""
        mark = backlog.mark
        waiting = list(backlog.waiting())
        await self._marker.announce((one for one, _ in waiting), self._untold.mark(mark), backlog.sequence)
        await self._each(backlog, [(one, partial(self._archive, backlog, one, found, mark)) for one, found in waiting])

    async def _archive(self, backlog: Backlog, partition: PartitionId, found: list[Found], mark: int) -> None:
        await self._sealer.archive(partition, found)
        backlog.done(partition)
        self._marker.archived(partition)
        tell_now = self._untold.is_full
        self._untold.note(partition, mark)
        if tell_now:
            await self._tell_one(partition)

    async def _tell(self, backlog: Backlog, partitions: Sequence[PartitionId]) -> None:
        """Say in the store how far partitions are archived; raise the last reason to try again."""
        await self._each(backlog, [(one, partial(self._tell_one, one)) for one in partitions])

    async def _tell_one(self, partition: PartitionId) -> None:
        await self._sealer.tell(partition)
        self._untold.told(partition)
        self._marker.told(partition)

    async def _each(self, backlog: Backlog, work: Sequence[Work]) -> None:
        # Whatever breaks, all end before anything is read again: what they have archived they take from the backlog.
        outcomes = await asyncio.gather(*(self._one(backlog, *each) for each in work), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _one(
        self, backlog: Backlog, partition: PartitionId, act: Callable[[], Awaitable[None]]
    ) -> LogUnavailable | StoreError | None:
        async with self._limit:
            try:
                await act()
            except (LogUnavailable, StoreUnavailable) as error:
                metrics.failures.inc()
                return error
            except (LogDamaged, StoreError) as error:
                self._stop(backlog, partition, error)
        return None

    def _stop(self, backlog: Backlog, partition: PartitionId, error: Exception) -> None:
        """Archive nothing more of a partition, loudly; the others go on."""
        backlog.hold(partition)
        self._untold.told(partition)
        self.stopped[str(partition)] = str(error)
        metrics.stopped.inc()
        log.error("not archived any more", partition=str(partition), reason=str(error))

    async def _wait(self, backlog: Backlog) -> None:
        """Wait until there is something to look for, or to say in the store."""
        while (pause_s := self._pause_s(backlog)) > 0:
            self._pace.news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._pace.news.wait()

    def _pause_s(self, backlog: Backlog) -> float:
        say_in_s = (self._untold.due_s(), self._marker.due_s(self._untold.mark(backlog.mark)))
        return min([self._pace.look_in_s, *(pause_s for pause_s in say_in_s if pause_s is not None)])

    async def _later(self, reason: str) -> None:
        self._failures += 1
        if reason != self.trouble:
            log.warning("archiving waits", stream=self.stream.name, reason=reason)
        self.trouble = reason
        rng = random.Random()
        await asyncio.sleep(delay(self._failures, base_s=RETRY_S, cap_s=RETRY_MAX_S, rng=rng, min_s=RETRY_S / 2))
