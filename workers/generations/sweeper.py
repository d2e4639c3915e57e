"""Sweeps every so often."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

import structlog

from events.archive import Archive
from projectors.tasks import end
from schemas.instants import now
from workers.generations import metrics
from workers.generations.failures import FAILURES
from workers.generations.gate import Gate
from workers.generations.marks import Marks
from workers.generations.sweeping import sweep

RETRY_S = 3600.0

log = structlog.get_logger(__name__)


Prune = Callable[[str], Awaitable[object]]
"""Removes what of histories need not be kept any more, `now` being the present moment."""


class Sweeper:
    """`async with` runs it. Before chunks are swept, `prune` is called."""

    def __init__(
        self,
        archive: Archive,
        marks_path: Path,
        gate: Gate,
        *,
        every_s: float,
        grace_s: float,
        prune: Prune | None = None,
    ) -> None:
        self._archive = archive
        self._marks_path = marks_path
        self._gate = gate
        self._every_s = every_s
        self._grace_s = grace_s
        self._prune = prune
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="sweep generations")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await end(self._task)

    async def _run(self) -> None:
        wait_s = await self._left_s()
        while True:
            await asyncio.sleep(min(wait_s, self._every_s))  # a clock that was set back makes it no later
            wait_s = self._every_s
            try:
                await self._prune_history()
                await sweep(self._archive, self._marks_path, self._gate, grace_s=self._grace_s, now_s=time.time())
            except FAILURES as error:
                metrics.failures.inc()
                log.error("chunks not swept", reason=str(error) or type(error).__name__)
                wait_s = min(RETRY_S, self._every_s)
            except Exception:
                log.exception("sweeping failed")

    async def _prune_history(self) -> None:
        if self._prune is None:
            return
        try:
            await self._prune(now())
        except FAILURES as error:
            metrics.failures.inc()
            log.error("history not pruned", reason=str(error) or type(error).__name__)

    async def _left_s(self) -> float:
        """Return in how many seconds the first sweep of this process is due."""
        try:
            return max(0.0, await asyncio.to_thread(_ended_at, self._marks_path) + self._every_s - time.time())
        except FAILURES as error:
            log.error("nobody knows when chunks were swept", reason=str(error) or type(error).__name__)
            return min(RETRY_S, self._every_s)


def _ended_at(path: Path) -> float:
    marks = Marks(path)
    try:
        return marks.ended_at
    finally:
        marks.close()
