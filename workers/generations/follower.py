"""Follows the archive and makes generations of the projections that have come far enough since their last ones."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

import structlog

from events.archive import Archive
from events.backoff import delay
from projectors.domain import ProjectionSpec
from projectors.generations.errors import GenerationError
from projectors.generations.reading import current
from projectors.tasks import end
from projectors.waker import Waker
from schemas.ids import START, PartitionId, Position
from workers.generations import metrics
from workers.generations.arrivals import Arrivals
from workers.generations.failures import FAILURES
from workers.generations.making import Made, Maker, Result
from workers.generations.progress import PARTITIONS_MAX, Policy, Progress, Progresses

RETRY_S, RETRY_MAX_S = 5.0, 600.0
IDLE_S = 60.0

log = structlog.get_logger(__name__)


class Generations:
    """Makes the generations of a node. `async with` runs it; `archived` is told what the archive has now."""

    def __init__(
        self,
        archive: Archive,
        maker: Maker,
        arrivals: Arrivals,
        projections: Callable[[PartitionId], Sequence[ProjectionSpec]],
        thin: Callable[[str], Awaitable[None]],
        policy: Policy,
        *,
        concurrency: int,
        retry_s: float = RETRY_S,
    ) -> None:
        """`thin` removes the old generations of a projection."""
        self._archive = archive
        self._maker = maker
        self._arrivals = arrivals
        self._projections = projections
        self._thin = thin
        self._retry_s = retry_s
        self._progresses = Progresses(policy)
        self._due: dict[PartitionId, None] = {}  # and not being made, in the order in which it came
        self._limit = asyncio.Semaphore(concurrency)
        self._wakers = [Waker() for _ in range(concurrency)]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._work(waker), name="generations") for waker in self._wakers]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            await end(task)
        for waker in self._wakers:
            waker.close()

    def archived(self, partition: PartitionId, position: Position, records: int, size_bytes: int) -> None:
        """Note that so many records were archived, up to `position`. Costs nothing but a look into a table."""
        self._arrivals.tell(partition, position)
        progress = self._progresses.archived(partition, position, records, size_bytes)
        if partition in self._due or progress.making:
            return
        if (self._progresses.is_due(progress) or not progress.counted) and len(self._due) < PARTITIONS_MAX:
            self._queue(partition)

    def _queue(self, partition: PartitionId) -> None:
        self._due[partition] = None
        metrics.waiting.set(len(self._due))
        for waker in self._wakers:
            waker.wake()

    @property
    def troubles(self) -> dict[str, str]:
        """Why generations of partitions are late, by partition."""
        return {str(partition): progress.trouble for partition, progress in self._progresses.troubles().items()}

    async def make_now(self, partition: PartitionId, spec: ProjectionSpec, *, prove: bool = False) -> Made:
        """Make a generation of one projection whatever has come since the last one; raise one of `FAILURES`.

        With `prove` it is verified, too: then the log need not hold for it what came before.
        """
        async with self._limit:
            made = await self._maker.make(partition, spec, prove=prove)
            if made.result is Result.MADE:
                await self._thin(spec.name)
            return made

    async def _work(self, waker: Waker) -> None:
        """Make one generation after the other, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            partition = self._take(time.monotonic())
            if partition is None:
                await waker.wait(loop.time() + self._pause_s(), loop)
                continue
            progress = self._progresses.find(partition)
            if progress is None:
                continue
            progress.making = True
            try:
                await self._one(partition, progress)
            except FAILURES as error:
                self._failed(progress, partition, str(error) or type(error).__name__)
            except Exception as error:
                log.exception("making a generation failed", partition=str(partition))
                self._failed(progress, partition, repr(error))
            finally:
                progress.making = False
            if self._progresses.is_due(progress) or not progress.counted:
                self._queue(partition)

    def _take(self, now_s: float) -> PartitionId | None:
        """Return the first partition that is due and may be made now."""
        for partition in self._due:
            progress = self._progresses.find(partition)
            if progress is None or progress.not_before <= now_s:
                del self._due[partition]
                metrics.waiting.set(len(self._due))
                return partition
        return None

    def _pause_s(self) -> float:
        """Return how long nothing may be made, unless something comes."""
        known = [progress.not_before for partition in self._due if (progress := self._progresses.find(partition))]
        return max(0.0, min([*(at - time.monotonic() for at in known), IDLE_S]))

    async def _one(self, partition: PartitionId, progress: Progress) -> None:
        """Make what is due of one partition, or find out that nothing is."""
        specs = self._projections(partition)
        if not progress.counted:
            progress.records = progress.archived.index - await self._covered(specs)
            progress.counted = True
        if not self._progresses.is_due(progress):
            return
        started, position = time.monotonic(), progress.archived
        for spec in specs:
            made = await self.make_now(partition, spec)
            if made.generation is not None:
                position = min(position, made.generation.at)
        ended = time.monotonic()
        self._progresses.made(partition, position, ended, ended - started)

    async def _covered(self, specs: Sequence[ProjectionSpec]) -> int:
        """Return the index up to which all projections of a partition have generations."""
        indexes = []
        for spec in specs:
            try:
                pointer = await current(self._archive, spec.name)
            except GenerationError as error:
                log.warning("generation pointer not usable", projection=spec.name, reason=str(error))
                pointer = None
            indexes.append(pointer.at.index if pointer else START.index)
        return min(indexes, default=START.index)

    def _failed(self, progress: Progress, partition: PartitionId, reason: str) -> None:
        progress.failures += 1
        wait_s = delay(progress.failures, base_s=self._retry_s, cap_s=RETRY_MAX_S, rng=random.Random())
        progress.not_before = time.monotonic() + max(wait_s, self._retry_s / 2)
        metrics.failures.inc()
        if reason != progress.trouble:
            log.warning("generation waits", partition=str(partition), reason=reason)
        progress.trouble = reason
