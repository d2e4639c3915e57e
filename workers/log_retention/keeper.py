"""Goes round the partitions, and lets the server forget what nobody needs there any more."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from events.boundary import boundary
from events.errors import LogError
from events.log import Log
from events.objects.errors import StoreError
from events.purge import purge
from events.streams import STREAMS, stream_state
from events.write_guard import ALWAYS_OPEN, WriteGuard
from schemas.ids import PartitionId
from schemas.problems import Refusal
from workers.log_retention import metrics
from workers.log_retention.looking import Sources, check_archived, look
from workers.log_retention.rule import NEWEST, Bounds, Standing, Verdict, to_evict, verdict

LOOKED_AT_MAX = 512  # partitions of one round, those with most messages first
REST_ROUNDS = 10  # for so many a partition is left alone of which nothing could go
RESTING_MAX = 20_000
HELD_TOLD_MAX = 20

log = structlog.get_logger(__name__)

Evict = Callable[[PartitionId, str, str], Awaitable[None]]
"""Gives up the copy of a replica of a partition, for a reason; raises what the log raises, or `Refusal`."""


class Held(NamedTuple):
    """Somebody keeps records of a partition in the log: `records` go when he is done, or more."""

    partition: str
    by: str
    records: int


@dataclass(frozen=True, slots=True)
class Report:
    """What the last round found. `trouble`: why some partition could not be looked at."""

    used_bytes: int = 0
    held: tuple[Held, ...] = ()
    trouble: str = ""
    rounds: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """How often to look, what stays in any case, and how much disk the log may take (0: as much as there is)."""

    every_s: float
    bounds: Bounds
    cap_bytes: int


class LogKeeper:
    """`run` goes on for ever; `report` says what it found. While `guard` is closed it changes nothing."""

    def __init__(
        self,
        event_log: Log,
        sources: Sources,
        limits: Limits,
        evict: Evict,
        *,
        guard: WriteGuard = ALWAYS_OPEN,
    ) -> None:
        self._log = event_log
        self._sources = sources
        self._evict = evict
        self._guard = guard
        self._resting: OrderedDict[PartitionId, float] = OrderedDict()
        self._held: dict[PartitionId, Held] = {}  # of the candidates, as they were looked at last
        self.limits = limits
        self.report = Report()

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(self.limits.every_s)
            try:
                await self.round()
            except LogError as error:
                log.warning("the log cannot be looked at now", reason=str(error))
            except Exception:
                log.exception("retention of the log failed")

    async def round(self) -> Report:
        """Look once at what may go; raise `LogUnavailable` if the log does not answer."""
        if self._guard.closed_because:
            return self.report
        candidates, used = await self._survey()
        pressed = self.over_cap(used)
        trouble = await self._pass(candidates, pressed=pressed)
        if pressed and self.over_cap(await self._used()):
            trouble = await self._pass(candidates, pressed=True, evicting=True) or trouble
        used = await self._used() if pressed else used
        self._held = {one: self._held[one] for one in candidates if one in self._held}
        held = sorted(self._held.values(), key=lambda one: -one.records)
        self.report = Report(used, tuple(held[:HELD_TOLD_MAX]), trouble, self.report.rounds + 1)
        metrics.used_bytes.set(used)
        metrics.held_partitions.clear()
        for by, partitions in Counter(one.by.partition(" ")[0] for one in held).items():
            metrics.held_partitions.labels(by).set(partitions)
        return self.report

    def over_cap(self, used_bytes: int) -> bool:
        """Say whether the log takes more disk than it may."""
        return 0 < self.limits.cap_bytes < used_bytes

    async def _survey(self) -> tuple[list[PartitionId], int]:
        """Return the partitions of which something may go, the largest first, and the bytes that the log takes."""
        states = await asyncio.gather(
            *(stream_state(self._log.reader, stream.name, subjects=True) for stream in STREAMS)
        )
        used = sum(state.size_bytes for state in states)
        least = 1 if self.over_cap(used) else self.limits.bounds.records
        counts = {subject: n for state in states for subject, n in state.subjects.items() if n > least}
        largest = sorted(counts, key=lambda subject: -counts[subject])
        return [PartitionId.parse(subject) for subject in largest], used

    async def _used(self) -> int:
        states = await asyncio.gather(*(stream_state(self._log.reader, stream.name) for stream in STREAMS))
        return sum(state.size_bytes for state in states)

    async def _pass(self, candidates: list[PartitionId], *, pressed: bool, evicting: bool = False) -> str:
        """Look at each candidate that does not rest, and note who holds it; return the trouble with the last one."""
        trouble = ""
        now = time.monotonic()
        due = [one for one in candidates if pressed or self._resting.get(one, 0.0) <= now]
        for partition in due[:LOOKED_AT_MAX]:
            if evicting and not self.over_cap(await self._used()):
                break
            try:
                found = await self._one(partition, pressed=pressed, evicting=evicting)
            except (LogError, StoreError, Refusal) as error:
                metrics.failures.inc()
                trouble = f"{partition}: {error}"
                log.warning("stays in the log", partition=str(partition), reason=str(error))
                continue
            self._held.pop(partition, None)
            if found and found.held > 0 and found.held_by != NEWEST:
                self._held[partition] = Held(str(partition), found.held_by, found.held)
        return trouble

    async def _one(self, partition: PartitionId, *, pressed: bool, evicting: bool) -> Verdict | None:
        standing = await look(self._sources, partition, self.limits.bounds, pressed=pressed)
        if standing is None:
            self._rest(partition)
            return None
        if evicting and (names := to_evict(standing)):
            standing = await self._evicted(partition, standing, names)
        found = verdict(standing, self.limits.bounds, pressed=pressed)
        if found.up_to:
            await self._let_go(partition, standing, found.up_to)
        else:
            self._rest(partition)
        return found

    async def _evicted(self, partition: PartitionId, standing: Standing, names: tuple[str, ...]) -> Standing:
        """Evict replicas, durably, before anything goes that they need; return the standing without them."""
        for name in names:
            why = f"nothing was heard of it, and the log takes more than {self.limits.cap_bytes} bytes"
            await self._evict(partition, name, why)
            metrics.evictions.inc()
            log.warning("replica evicted for the disk", partition=str(partition), replica=name)
        return standing._replace(followers=tuple(one for one in standing.followers if one.name not in names))

    async def _let_go(self, partition: PartitionId, standing: Standing, up_to: int) -> None:
        """Remove the records up to an index, which the archive is seen to hold, and never the newest one."""
        end = await boundary(self._log.reader, partition, up_to)
        if end is None or end.position.index >= standing.head:
            return
        await check_archived(self._sources.reader, self._sources.archive, partition, end)
        self._guard.check()
        await purge(self._log.admin, partition, below=end.sequence)
        metrics.purged_records.inc(up_to - standing.first + 1)
        log.info("records left the log", partition=str(partition), first=standing.first, last=up_to)

    def _rest(self, partition: PartitionId) -> None:
        self._resting.pop(partition, None)
        self._resting[partition] = time.monotonic() + REST_ROUNDS * self.limits.every_s
        while len(self._resting) > RESTING_MAX:
            self._resting.popitem(last=False)
