"""The store's side of a daemon: the lease of its prefix, and the archiver that runs while it is held."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog

from events.archive import Archive
from events.epochs import EpochTaken
from events.errors import LogError
from events.log import Log
from events.objects.errors import StoreError
from events.write_guard import WriteGuard
from forge.archive_service import ArchiveService, open_archive_service
from forge.log_retention_service import NoReplicas, open_log_retention
from forge.restore.outcome import Done
from forge.takeover import take_over
from schemas.settings import Settings
from workers.lease.errors import LeaseError
from workers.lease.lease import Contended, Held, WriterLease

TRY_S = 10.0
"""So long a start waits for the store; then snapshots can be taken, and are stored when it answers."""

RETRY_S = 10.0

log = structlog.get_logger(__name__)


class Uploading:
    """Archives the log of a daemon while the lease is held.

    `local` is the guard of the commit loop: open unless another machine writes as this node. `again` is called when
    everything has to be opened anew, because the lease came, or went to somebody else.
    """

    def __init__(
        self, settings: Settings, lease: WriterLease, archive: Archive, event_log: Log, again: Callable[[], None]
    ) -> None:
        self.local = WriteGuard.always_open()
        self.service: ArchiveService | None = None
        self.trouble = ""
        self._settings = settings
        self._lease = lease
        self._archive = archive
        self._log = event_log
        self._again = again
        self._held: Held | None = None

    async def begin(self, epoch: int) -> int:
        """Acquire the lease if the store answers soon, and bring what is here to where the archive stands.

        Nobody may have a partition open. Return the epoch to write with: `epoch`, that of the last time, if nobody
        knows better.
        """
        try:
            async with asyncio.timeout(TRY_S):
                outcome = await self._lease.try_acquire()
            if isinstance(outcome, Contended):
                self._refuse(outcome.holder.owner_id)
                return epoch
            await self._bring_up(outcome)
        except (StoreError, LogError, EpochTaken, TimeoutError) as error:  # a key that is wrong was refused before
            self.trouble = str(error) or "the object store does not answer"
            log.warning("what is written here is stored later", reason=self.trouble)
            await self._lease.release()
            return epoch
        self._held = outcome
        return outcome.epoch

    def _refuse(self, holder: str) -> None:
        self.trouble = f"{holder} writes as {self._settings.node_id}: give one of the two another FORGE_NODE_NAME"
        self.local.close(self.trouble)
        log.error("another machine has the name of this one", holder=holder)

    async def _bring_up(self, held: Held) -> None:
        outcomes = await take_over(self._settings, self._log, self._archive, self._lease, held)
        refused = [outcome for outcome in outcomes if outcome.done is Done.REFUSED]
        self.trouble = f"{refused[0].partition}: {refused[0].problem}" if refused else ""

    async def give_back(self) -> None:
        """Give the lease back when archiving has ended; to nobody else if something was left."""
        left_some = self.service is not None and self.service.left_some
        if left_some:
            log.warning("not everything is stored: the writer lease is not handed over until it has run out")
        await self._lease.release(hand_over=not left_some)

    async def look(self) -> tuple[str, ...]:
        """Return something that changes whenever the status does, without asking the store."""
        return (self.trouble, *(check.value for check in (await self.service.checks() if self.service else ())))

    async def run(self, opened: AsyncExitStack) -> None:
        """Archive until the lease is lost, or wait for it; what was started for that is closed by `opened`."""
        try:
            if self._held is None:
                await self._lease.acquire()  # and after the next opening it is brought up before anything is stored
            else:
                settings, event_log, archive = self._settings, self._log, self._archive
                self.service = await open_archive_service(settings, event_log, archive, opened, epoch=self._held.epoch)
                nobody = NoReplicas()
                await open_log_retention(settings, event_log, archive, nobody, opened, self._lease.guard)
                await self.service.sweep(nobody.followers, opened)
                await self._lease.lost.wait()
                self.local.close(self._lease.guard.closed_because or "another machine writes as this one")
        except Exception as error:  # a full disk, too: who ends here for good would never store anything again
            self.trouble = str(error) or type(error).__name__
            expected = isinstance(error, StoreError | LeaseError | LogError)
            (log.error if expected else log.exception)("nothing is stored for a while", reason=self.trouble)
            await asyncio.sleep(RETRY_S)
        self._again()
