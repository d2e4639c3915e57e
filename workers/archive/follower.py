"""Follows one stream of the log and archives what it reads, in the order of the stream, within bounds of memory."""

import asyncio
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog
from nats.aio.msg import Msg

from events.archive import Archive
from events.backoff import delay
from events.connection import Connection
from events.errors import LogDamaged, LogError, LogUnavailable
from events.objects.errors import StoreError, StoreUnavailable
from events.read import messages_on
from events.streams import Stream, stream_state
from schemas.ids import InvalidId, PartitionId
from workers.archive import metrics
from workers.archive.backlog import Backlog, Found
from workers.archive.marking import Marker
from workers.archive.sealing import Sealer

POLL_S, POLL_MAX_S = 1.0, 10.0  # looks after so long even if no hint of news arrives
LOOK_PAUSE_S = 0.1  # news that come closer together are read together
RETRY_S, RETRY_MAX_S = 0.5, 15.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """A partition is sealed when its oldest record waits for `seal_s`, or `seal_bytes` wait.

    No more is read while `memory_bytes` wait.
    """

    seal_s: float
    seal_bytes: int
    memory_bytes: int


class StreamArchiver:
    """One stream. `run` goes on for ever; what it says of itself may be read at any time."""

    def __init__(
        self,
        stream: Stream,
        archive: Archive,
        reader: Connection,
        hints: Connection,
        sealer: Sealer,
        bounds: Bounds,
        limit: asyncio.Semaphore,
    ) -> None:
        self.stream = stream
        self._reader = reader
        self._hints = hints
        self._sealer = sealer
        self._bounds = bounds
        self._limit = limit
        self._news = asyncio.Event()
        self._marker = Marker(archive, stream.name)
        self._due_at: float | None = None
        self._spent_s = 0.0  # by the last archiving, while the records that are found next were waiting
        self._failures = 0
        self._poll_s = POLL_S
        self.started_at = time.time()
        self.backlog: Backlog | None = None  # None until the store has told the mark
        self.trouble = ""
        self.stopped: dict[str, str] = {}

    async def run(self) -> None:
        """Archive for ever."""
        listens = False
        async with AsyncExitStack() as closing:
            while True:
                try:
                    if not listens:
                        closing.callback(await self._hints.listen(self._hint_subject, self._heard))
                        listens = True
                    if self.backlog is None:
                        self.backlog = await self._begin()
                    await self._round(self.backlog)
                except (LogUnavailable, StoreError) as error:
                    await self._later(str(error) or type(error).__name__)
                except Exception as error:
                    log.exception("archiving failed", stream=self.stream.name)
                    await self._later(repr(error))

    async def flush(self) -> bool:
        """Archive what is there now, once; say whether that is all. Whatever fails is left for the next start."""
        if self.backlog is None or self.trouble:
            return False
        try:
            while await self._look(self.backlog):
                await self._archive_all(self.backlog)
            await self._archive_all(self.backlog)
            await self._marker.save(self.backlog.mark)
        except (LogError, StoreError) as error:
            log.warning("not everything is archived", stream=self.stream.name, reason=str(error))
            return False
        return True

    @property
    def _hint_subject(self) -> str:
        return self.stream.subject.replace("forge.log.", "forge.live.", 1)

    def _heard(self, _: Msg) -> None:
        self._news.set()

    async def _begin(self) -> Backlog:
        """Return an empty backlog that stands where everything before is archived."""
        return Backlog(await self._marker.begin((await stream_state(self._reader, self.stream.name)).created))

    async def _round(self, backlog: Backlog) -> None:
        """Read what is new, archive what is due, and wait for more."""
        self._news.clear()
        looked = backlog.sequence
        more = await self._look(backlog)
        if backlog.sequence != looked:
            self._poll_s = POLL_S
        else:
            self._spent_s = 0.0
        full = backlog.size_bytes >= self._bounds.memory_bytes or backlog.largest() >= self._bounds.seal_bytes
        if self._due_at is not None and (full or more or time.monotonic() >= self._due_at):
            began = time.monotonic()
            await self._archive_all(backlog)
            self._due_at, self._spent_s = None, time.monotonic() - began
        if self._marker.due_s(backlog.mark) == 0:
            await self._marker.save(backlog.mark)
        self.trouble, self._failures = "", 0
        if not more:
            await self._wait(backlog)

    async def _look(self, backlog: Backlog) -> bool:
        """Read until nothing is new, memory is used up or something is due; say whether there may be more.

        Not until nothing is new alone: of a stream that is written all the time that would never be so. And a record
        that is larger than the bound has to be read to its end.
        """
        while backlog.size_bytes < self._bounds.memory_bytes or not backlog.records:
            batch = await messages_on(self._reader, self.stream.name, self.stream.subject, backlog.sequence + 1)
            if not batch:
                return False
            for message in batch:
                try:
                    backlog.take(message)
                except LogDamaged as error:
                    self._stop(backlog, PartitionId.parse(message.subject), error)
                except InvalidId as error:
                    self.stopped[message.subject] = str(error)
            if backlog.records and self._due_at is None:
                waited_s = min(
                    self._spent_s, self._bounds.seal_s / 2
                )  # half is left to gather, however slow the store is
                self._due_at = time.monotonic() + self._bounds.seal_s - waited_s
            if self._due_at is not None and time.monotonic() >= self._due_at:
                break
        return True

    async def _archive_all(self, backlog: Backlog) -> None:
        """Archive what waits, several partitions at a time; raise the last reason to try again."""
        waiting = list(backlog.waiting())
        await self._marker.announce((partition for partition, _ in waiting), backlog.mark, backlog.sequence)
        outcomes = await asyncio.gather(*(self._archive_one(backlog, *one) for one in waiting))
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _archive_one(
        self, backlog: Backlog, partition: PartitionId, found: list[Found]
    ) -> LogUnavailable | StoreError | None:
        async with self._limit:
            try:
                await self._sealer.archive(partition, found)
            except (LogUnavailable, StoreUnavailable) as error:
                metrics.failures.inc()
                return error
            except (LogDamaged, StoreError) as error:
                self._stop(backlog, partition, error)
            else:
                backlog.done(partition)
                self._marker.archived(partition)
        return None

    def _stop(self, backlog: Backlog, partition: PartitionId, error: Exception) -> None:
        """Archive nothing more of a partition, loudly; the others go on."""
        backlog.hold(partition)
        self.stopped[str(partition)] = str(error)
        metrics.stopped.inc()
        log.error("not archived any more", partition=str(partition), reason=str(error))

    async def _wait(self, backlog: Backlog) -> None:
        """Wait for news, or until something is due."""
        if self._due_at is not None:
            return await asyncio.sleep(min(LOOK_PAUSE_S, max(0.0, self._due_at - time.monotonic())))
        try:
            mark_due_s = self._marker.due_s(backlog.mark)
            async with asyncio.timeout(self._poll_s if mark_due_s is None else min(mark_due_s, self._poll_s)):
                await self._news.wait()
        except TimeoutError:
            self._poll_s = min(2 * self._poll_s, POLL_MAX_S)

    async def _later(self, reason: str) -> None:
        self._failures += 1
        if reason != self.trouble:
            log.warning("archiving waits", stream=self.stream.name, reason=reason)
        self.trouble = reason
        rng = random.Random()
        await asyncio.sleep(delay(self._failures, base_s=RETRY_S, cap_s=RETRY_MAX_S, rng=rng, min_s=RETRY_S / 2))
