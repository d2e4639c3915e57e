"""Bring every partition of a node to where its archive stands, before anybody opens one."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import apsw
import structlog

from events.archive import Archive
from events.errors import LogDamaged
from events.log import Log
from events.write_guard import ALWAYS_OPEN, WriteGuard
from forge.domains import domains, partitions_here
from forge.restore.copied import MANY, Copied
from forge.restore.outcome import Done, Outcome
from forge.restore.partition import Restorer
from forge.restore.standing import examine
from projectors.catch_up import Progress
from projectors.document.domain import DOMAIN as DOCUMENTS
from projectors.domain import Domain
from projectors.generations.errors import GenerationError
from projectors.projection import WrongProjection
from projectors.rebuild import sweep_folder
from projectors.tasks import for_each
from projectors.threads import Threads
from schemas.ids import PartitionId, Position
from schemas.settings import Settings
from workers.archive.report import partitions_of

AT_ONCE = 16
"""Partitions that are compared or restored at the same time; each holds one segment or generation chunk in memory."""

Started = Callable[[PartitionId, Position], Progress]
"""Hears that a partition is on its way to a position; what it returns hears how far it is."""
Counted = Callable[[int, int], None]
"""Hears how many partitions are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who hears how far it is."""

    started: Started = lambda *_: lambda _: None
    counted: Counted = lambda *_: None


NOBODY = Watch()

log = structlog.get_logger(__name__)


async def bring_up(
    settings: Settings,
    event_log: Log,
    archive: Archive,
    *,
    alone_aside: bool = False,
    guard: WriteGuard = ALWAYS_OPEN,
    sure: Collection[PartitionId] = (),
    watch: Watch = NOBODY,
) -> dict[PartitionId, Outcome]:
    """Compare everything here with the archive and make it one again; return what became of each partition.

    Of those that are `sure` it is known that they are here as they are archived: nothing is done about them.

    The caller holds the data directory, and the writer's lease if there is one; the streams exist, and no partition
    is open. Killed at any point, the next call goes on. Raise `LogUnavailable` or `StoreUnavailable` if either is
    away: then nothing is known, and nobody may write. What is wrong with one partition alone stands in its outcome.
    """
    with Threads(AT_ONCE, "restore") as threads:
        restorer = Restorer(archive, event_log, threads, settings.data_dir, alone_aside, guard)
        return await restore_all(restorer, domains(settings), partitions_here(settings), sure=sure, watch=watch)


async def restore_all(
    restorer: Restorer,
    known: Mapping[str, Domain],
    here: Iterable[PartitionId],
    *,
    sure: Collection[PartitionId] = (),
    watch: Watch = NOBODY,
) -> dict[PartitionId, Outcome]:
    """Do what `bring_up` says for the partitions that are `here`, in the log, or in the archive, by their names."""
    outcomes: dict[PartitionId, Outcome] = {}
    swept: set[Path] = set()
    await restorer.archive.epochs.refresh()

    async def one(partition: PartitionId) -> None:
        domain = known.get(partition.domain)
        for folder in {spec.path.parent for spec in domain.projections(partition.key)} - swept if domain else ():
            swept.add(folder)
            await restorer.threads.run(sweep_folder, folder)
        outcomes[partition] = await _one(restorer, domain, partition, watch.started)
        watch.counted(len(outcomes), len(partitions))

    found = dict.fromkeys(here)
    found |= dict.fromkeys(await partitions_of(restorer.log.reader))
    found |= dict.fromkeys([partition async for partition in restorer.archive.partitions()])
    partitions = sorted(found.keys() - sure, key=lambda partition: partition.subject)
    if len(partitions) >= MANY:
        restorer = replace(restorer, copied=await Copied.of(restorer.archive, DOCUMENTS))
    await for_each(partitions, one, AT_ONCE)
    return {partition: outcomes[partition] for partition in partitions}


async def _one(restorer: Restorer, domain: Domain | None, partition: PartitionId, started: Started) -> Outcome:
    try:
        state = await examine(restorer.archive, restorer.log.reader, restorer.threads, domain, partition)
        progress = started(partition, state.end.position) if state.end is not None else lambda _: None
        outcome = await restorer.carry_out(state, progress)
    except (LogDamaged, GenerationError, WrongProjection, apsw.Error, OSError) as error:
        log.error("not restored", partition=str(partition), reason=str(error))
        return Outcome(str(partition), Done.REFUSED, "", problem=str(error))
    if outcome.done not in (Done.NOTHING, Done.LOCAL):
        log.info("restored", **asdict(outcome))
    return outcome
