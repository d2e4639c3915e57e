"""Becoming the writer of a prefix: what must be so before the first command is taken."""

import asyncio
from collections.abc import Sequence

import structlog

from events.archive import Archive
from events.epoch_ends import begin_epoch
from events.log import Log
from forge.archive_service import archiver_of
from forge.datadir import DataDirUnusable
from forge.restore.bring_up import bring_up
from forge.restore.outcome import Outcome
from projectors.control.domain import PARTITION
from projectors.partitions import Partitions
from schemas.instants import now
from schemas.problems import Refusal
from schemas.settings import Settings
from schemas.writer_lease import TakeWriter
from workers.archive.report import partitions_of
from workers.lease.lease import Held, WriterLease

TELL_TIMEOUT_S = 10.0
LOOK_S = 0.05

log = structlog.get_logger(__name__)


class LogLost(DataDirUnusable):
    """The log of the data directory is gone, but not its archive: going on might give a position again."""


async def take_over(
    settings: Settings, event_log: Log, archive: Archive, lease: WriterLease, held: Held
) -> Sequence[Outcome]:
    """Make the history here that of the archive, and begin the epoch that is held; return what became of partitions.

    What this node has and the archive lacks is archived first, as no other writer has come in between: what it
    answered counts. Repeating it is safe. Raise `LogError`, `StoreError` and `EpochTaken`; the guard of the lease
    is asked before anything is changed.
    """
    begun = (await archive.epochs.refresh()).epoch
    empty = await _empty(archive)
    if not held.taken and begun >= held.epoch:
        if not empty and not await partitions_of(event_log.reader):
            raise LogLost(
                f"{settings.data_dir} was the writer of {archive.name}, but its log is gone: run `forge restore`, "
                "which brings back what is archived, and start again"
            )
        return []
    outcomes = [] if empty else await bring_up(settings, event_log, archive, guard=lease.guard)
    if begun < held.epoch:
        if empty or any(outcome.unarchived for outcome in outcomes):
            await _archive_all(settings, event_log, archive, lease)
        await begin_epoch(archive, held.epoch, node=settings.node_id, time=now())
        log.info("epoch begun", epoch=held.epoch)
    return outcomes


async def first_epoch(settings: Settings, archive: Archive, here: int) -> int:
    """Return the epoch of who begins to write where no lease is stored, `here` being the one that he held last.

    Raise what the store raises, and `LogError`.
    """
    newest = (await archive.epochs.refresh()).epoch
    if here >= newest or settings.lease_mode == "off":
        return max(here, newest)
    return newest if newest == 1 and await _empty(archive) else newest + 1


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
