"""The drills of a node: what the last ones found, and new ones every so often."""

import asyncio
import math
import random
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Self

import structlog
from prometheus_client import Counter, Gauge

from events.archive import Archive
from events.errors import LogError
from events.objects.errors import StoreError
from forge.restore.drilling import drill_each, everything
from forge.restore.drills import drilled, last
from projectors.tasks import end, for_each
from schemas.drill import DrillResult
from schemas.settings import Settings

LOOK_S = 300.0  # results of others are read again after so long
KNOWN_MAX = 1000  # projections whose last drill is looked at for the metrics
LOOKED_UP_AT_ONCE = 8
PAUSE_S = 1.0

RED = Gauge("forge_replicate_drill_red", "Projections whose last drill failed.")
GREEN_AT = Gauge(
    "forge_replicate_drill_green_timestamp_seconds", "When the newest drill that succeeded ended; 0: none."
)
DRILLS = Counter("forge_replicate_drills_total", "Drills of this node by itself.", ["result"])

log = structlog.get_logger(__name__)


class DrillService:
    """Drills as a part of the node. `async with` runs those that the settings ask for."""

    def __init__(self, archive: Archive, settings: Settings) -> None:
        self._archive = archive
        self._settings = settings
        self._task: asyncio.Task[None] | None = None
        self._results: dict[str, DrillResult] = {}
        self._tried_at = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="drills")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await end(self._task)

    async def last_of(self, projections: Iterable[str]) -> dict[str, DrillResult]:
        """Return the last drills of projections, of those that had one; raise what the store raises."""
        known = {name async for name in drilled(self._archive)}
        return await self._read([name for name in projections if name in known])

    async def _read(self, names: Iterable[str]) -> dict[str, DrillResult]:
        found: dict[str, DrillResult] = {}

        async def one(name: str) -> None:
            if (result := await last(self._archive, name)) is not None:
                found[name] = result

        await for_each(names, one, LOOKED_UP_AT_ONCE)
        return found

    async def _run(self) -> None:
        """Look what others have drilled, for the metrics, and drill when it is time, counted from the last of all."""
        while True:
            try:
                names = [name async for name in drilled(self._archive)][:KNOWN_MAX]
                self._results = await self._read(names)
                self._tell()
                if self._due_in_s() <= 0:
                    await self._drill()
            except (StoreError, LogError) as error:
                log.warning("drills wait", reason=str(error))
            except Exception:
                log.exception("drilling failed")
            await asyncio.sleep(min(LOOK_S, max(PAUSE_S, self._due_in_s())))

    def _due_in_s(self) -> float:
        if not self._settings.drill_every_s:
            return math.inf
        newest = max((datetime.fromisoformat(one.at).timestamp() for one in self._results.values()), default=0.0)
        return max(newest, self._tried_at) + self._settings.drill_every_s - time.time()

    async def _drill(self) -> None:
        self._tried_at = time.time()
        names = await everything(self._archive, self._settings, self._settings.drill_documents, random.Random())
        async for result in drill_each(self._archive, self._settings, names):
            DRILLS.labels("green" if result.green else "red").inc()
            self._results[result.projection] = result
            self._tell()
            if not result.green:
                log.error("drill failed", projection=result.projection, reason=result.reason)

    def _tell(self) -> None:
        RED.set(sum(not result.green for result in self._results.values()))
        green = [datetime.fromisoformat(one.at).timestamp() for one in self._results.values() if one.green]
        GREEN_AT.set(max(green, default=0))
