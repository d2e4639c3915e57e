"""Becoming the writer of a prefix: what must be so before the first command is taken."""

import asyncio
from collections.abc import Collection, Iterable, Mapping

import structlog

from events.archive import Archive
from events.epoch_ends import begin_epoch
from events.log import Log
from events.streams import STREAMS, stream_of, stream_state, stream_states
from forge.archive_service import archiver_of
from forge.datadir import DataDirUnusable
from forge.restore.bring_up import bring_up
from forge.restore.lost_log import lost_log
from forge.restore.outcome import Outcome, archived_ends
from projectors.control.domain import PARTITION
from projectors.partitions import Partitions
from projectors.tasks import for_each
from schemas.ids import PartitionId, Position
from schemas.instants import now
from schemas.problems import Refusal
from schemas.settings import Settings
from schemas.writer_lease import TakeWriter
from workers.archive.marking import Marker
from workers.archive.places import Places
from workers.lease.lease import Held, WriterLease
from workers.standby.changes import marks
from workers.standby.compared import Compared

TELL_TIMEOUT_S = 10.0
LOOK_S = 0.05
TOLD_AT_ONCE = 16

log = structlog.get_logger(__name__)


class LogLost(DataDirUnusable):
    """The log of the data directory is gone, or an older one, but not its archive: positions might be given again."""


async def take_over(
    settings: Settings,
    event_log: Log,
    archive: Archive,
    lease: WriterLease,
    held: Held,
    compared: Compared | None = None,
) -> Collection[Outcome]:
    """Make the history here that of the archive, and begin the epoch that is held; return what became of partitions.

    What a standby has `compared`, and what cannot have changed since, is not compared again.

    What this node has and the archive lacks is archived first, as no other writer has come in between: what it
    answered counts. Repeating it is safe. Raise `LogError`, `StoreError` and `EpochTaken`; the guard of the lease
    is asked before anything is changed.
    """
    begun = (await archive.epochs.refresh()).epoch
    empty = await _empty(archive)
    if not held.taken and begun >= held.epoch:
        if not empty and (lost := await lost_log(event_log.reader, archive)):
            raise LogLost(
                f"{settings.data_dir} was the writer of {archive.name}, but {lost}: run `forge restore`, which brings "
                "back what is archived, and start again"
            )
        return []
    known = await _known(event_log, archive, compared) if compared is not None and compared.epoch == begun else {}
    outcomes = {} if empty else await bring_up(settings, event_log, archive, guard=lease.guard, sure=known)
    if begun < held.epoch:
        await _tell(settings, event_log, archive, [one for one, outcome in outcomes.items() if outcome.untold])
        await _mark(event_log, archive, outcomes)
        if empty or any(outcome.unarchived for outcome in outcomes.values()):
            await _archive_all(settings, event_log, archive, lease)
        known |= archived_ends(outcomes)
        await begin_epoch(archive, held.epoch, node=settings.node_id, time=now(), known=known)
        log.info("epoch begun", epoch=held.epoch, compared=len(outcomes), partitions=len(known))
    return outcomes.values()


async def first_epoch(settings: Settings, archive: Archive, here: int) -> int:
    """Return the epoch of who begins to write where no lease is stored, `here` being the one that he held last.

    Raise what the store raises, and `LogError`.
    """
    newest = (await archive.epochs.refresh()).epoch
    if here >= newest or settings.lease_mode == "off":
        return max(here, newest)
    return newest if newest == 1 and await _empty(archive) else newest + 1


async def _known(event_log: Log, archive: Archive, compared: Compared) -> dict[PartitionId, Position]:
    """Return where partitions end of which nobody can have archived anything since they were compared."""
    return compared.sure(await marks(archive), await stream_states(event_log.reader))


async def _tell(settings: Settings, event_log: Log, archive: Archive, untold: Iterable[PartitionId]) -> None:
    """Say in the archive how far it goes, where who stored it died before he could: no archiver looks there again."""
    places = Places(archive, event_log.reader, settings.node_id)
    await for_each(untold, places.tell, TOLD_AT_ONCE)


async def _mark(event_log: Log, archive: Archive, outcomes: Mapping[PartitionId, Outcome]) -> None:
    """Say of each stream that is here as it is archived that it is, so that the archiver need not look through it."""
    left = {stream_of(partition) for partition, outcome in outcomes.items() if not outcome.as_archived}
    for stream in STREAMS:
        if stream.name in left:
            continue
        state, marker = await stream_state(event_log.reader, stream.name), Marker(archive, stream.name)
        if not await marker.begin(state.created) and state.last_sequence:
            await marker.save(state.last_sequence)


async def _empty(archive: Archive) -> bool:
    """Say whether nothing is archived at all."""
    async for _ in archive.partitions():
        return False
    return True


async def _archive_all(settings: Settings, event_log: Log, archive: Archive, lease: WriterLease) -> None:
    """Archive what the log holds; a partition that cannot be archived is left out, and said."""
    async with archiver_of(settings, event_log, archive, seal_s=0) as archiver:
        while any(lag.records for lag in await archiver.lag()):
            lease.guard.check()
            await asyncio.sleep(LOOK_S)


async def tell_writer(partitions: Partitions, lease: WriterLease) -> None:
    """Say in the control plane who writes from now on; that it cannot be said now keeps nobody from writing."""
    holder = lease.holder
    if holder is None:
        return
    command = TakeWriter(epoch=lease.epoch, node=holder.node, lease_id=holder.lease_id, place=holder.place)
    try:
        await partitions.submit(PARTITION, command, principal="forge", timeout_s=TELL_TIMEOUT_S)
    except Refusal as refusal:
        log.warning("not said who writes", epoch=lease.epoch, reason=refusal.problem.detail)
