"""Remove what is older than the window that the archive is kept for: segments, the oldest first.

What stays is the end of a history at any moment, and can be read from the first generation in it on. Before anything
goes, that generation was restored, and is what the records that go say. Killed at any point, the next look goes on.
"""

from collections.abc import Awaitable, Callable, Sequence

import apsw
import structlog

from events.archive import Archive
from events.archived_place import recorded_place
from events.errors import LogDamaged
from projectors.domain import ProjectionSpec
from projectors.generations.errors import GenerationError
from projectors.generations.reading import check_history, generations, manifest, positions
from schemas.archive import SegmentKey
from schemas.generation import GenerationKey, Manifest
from schemas.ids import START, PartitionId
from schemas.problems import Refusal
from workers.generations import metrics
from workers.generations.failures import NotNow
from workers.generations.gate import Gate
from workers.generations.sweeping import manifest_keys
from workers.generations.window import Copy, Window, base, going, kept_from
from workers.log_retention.rule import Follower

REMOVED_MAX = 10_000  # segments of one look: each is a request

History = tuple[PartitionId, Sequence[ProjectionSpec]]
"""A partition and all its projections."""

Histories = Callable[[str], History | None]
"""Gives the history of which a projection is the first, None for what is no such projection."""

Prove = Callable[[PartitionId, ProjectionSpec, Manifest], Awaitable[None]]
"""Restores a generation and compares it with what the archived records say; raises one of `FAILURES` if it is not."""

Followers = Callable[[PartitionId], Sequence[Follower]]

log = structlog.get_logger(__name__)


class Pruner:
    """`look` removes what need not be kept any more; while it does, old generations stay (`gate`)."""

    def __init__(
        self, archive: Archive, gate: Gate, histories: Histories, prove: Prove, followers: Followers, *, days: float
    ) -> None:
        """`days` of history are kept; 0 keeps everything."""
        self._archive = archive
        self._gate = gate
        self._histories = histories
        self._prove = prove
        self._followers = followers
        self._days = days

    async def look(self, now: str) -> int:
        """Look at all partitions that have generations; return how many segments went, at most `REMOVED_MAX`.

        What cannot be proved stays, and is said. Raise what the store raises, and `LogUnavailable`.
        """
        removed = 0
        if not self._days:
            return removed
        window = Window(self._days, now)
        async for keys in manifest_keys(self._archive):
            for projection in dict.fromkeys(key.projection for key in keys):
                if (history := self._histories(projection)) is None:
                    continue
                if (left := REMOVED_MAX - removed) <= 0:
                    return removed
                removed += await self._looked(history, window, left)
        return removed

    async def _looked(self, history: History, window: Window, most: int) -> int:
        partition, specs = history
        try:
            return await self._one(partition, specs, window, most)
        except (GenerationError, LogDamaged, Refusal, NotNow, apsw.Error, OSError) as error:
            metrics.failures.inc()
            log.error("history not pruned", partition=str(partition), reason=str(error))
            return 0

    async def _one(self, partition: PartitionId, specs: Sequence[ProjectionSpec], window: Window, most: int) -> int:
        bases: list[Manifest] = []
        for spec in specs:
            if (found := await self._base(spec, window)) is None:
                return 0
            bases.append(found)
        told = (await recorded_place(self._archive, partition)).cursor.position.index
        first = kept_from([one.at.index for one in bases], told, self._followers(partition))
        segments = await self._segments(partition, first, most)
        if not segments:
            return 0
        for spec, one in zip(specs, bases, strict=True):
            await self._prove(partition, spec, one)
        async with self._gate.alone():
            for one in bases:
                await check_history(self._archive, await manifest(self._archive, one.projection, one.at))
            for one in bases:
                await self._make_first(one)
            for key in segments:
                await self._archive.store.delete(self._archive.key(str(key)))
                metrics.removed.labels("segment").inc()
        kept = {one.projection: one.position for one in bases}
        log.info("history pruned", partition=str(partition), up_to=segments[-1].last, bases=kept)
        return len(segments)

    async def _make_first(self, base: Manifest) -> None:
        """Remove the generations before one that was proved: a history that begins later begins with that one."""
        for at in await positions(self._archive, base.projection):
            if at < base.at:
                await self._archive.store.delete(self._archive.key(str(GenerationKey(base.projection, at))))
                metrics.removed.labels("generation").inc()

    async def _base(self, spec: ProjectionSpec, window: Window) -> Manifest | None:
        """Return the newest generation of a projection from which the whole window can be read, None if none can.

        One that another version of Forge has made is of no use to this one.
        """
        async for found in generations(self._archive, spec.name):
            if found.version == spec.version and base([Copy(found.at, found.time)], window):
                return found
        return None

    async def _segments(self, partition: PartitionId, first: int, most: int) -> Sequence[SegmentKey]:
        """Return the segments that may go, the oldest first, at most so many."""
        found: list[SegmentKey] = []
        async for key in self._archive.segments(partition, START):
            found.append(key)
            if key.last >= first or len(found) == most:
                break
        return going(found, first)
