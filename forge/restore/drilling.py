"""Drills of many projections, one after the other, each result kept in the archive."""

import random
from collections.abc import AsyncIterator, Sequence

from events.archive import Archive
from forge.domains import STANDING, domains, projection_named
from forge.restore.drill import Drill
from forge.restore.drills import keep
from projectors.threads import Threads
from schemas.drill import DrillResult
from schemas.settings import Settings

SCRATCH = "drill"


class NoSuchProjection(Exception):
    """There is no projection of that name."""


async def drill_each(archive: Archive, settings: Settings, names: Sequence[str]) -> AsyncIterator[DrillResult]:
    """Drill projections by name; yield what became of each.

    Raise `NoSuchProjection`, `NotDrilled`, `LogUnavailable`, and what the store raises.
    """
    with Threads(1, "drill") as threads:
        drill = Drill(archive, threads, settings.cache_dir / SCRATCH, settings.node_id)
        for name in names:
            if (found := projection_named(settings, name)) is None:
                raise NoSuchProjection(name)
            result = await drill.run(*found)
            await keep(archive, result)
            yield result


async def everything(archive: Archive, settings: Settings, sample: int | None, rng: random.Random) -> list[str]:
    """Return the projections of all archived partitions, in order; of documents only `sample`, picked at random."""
    known = domains(settings)
    partitions = [one async for one in archive.partitions() if one.domain in known]
    others = [one for one in partitions if one not in STANDING]
    if sample is not None and len(others) > sample:
        others = rng.sample(others, sample)
    chosen = [one for one in partitions if one in STANDING or one in others]
    return [spec.name for one in chosen for spec in known[one.domain].projections(one.key)]
