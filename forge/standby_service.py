"""A node as a standby, wired: it follows the archive of the writer, and says whose and how closely."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import structlog
from nats.aio.msg import Msg

from api.system import Check
from events.archive import Archive
from events.errors import LogUnavailable
from events.log import Log
from events.write_guard import WriteGuard
from forge.lease_report import LeaseReport
from projectors.partitions import Partitions
from projectors.tasks import end
from schemas.ids import InvalidId, PartitionId
from workers.lease.lease import WriterLease
from workers.standby.compared import Compared
from workers.standby.follower import ArchiveFollower

LIVE = "forge.live."

log = structlog.get_logger(__name__)


class StandbyGuard(WriteGuard):
    """Never open, also when the lease becomes ours: whoever writes then begins anew. It says who the writer is."""

    def __init__(self, lease: WriterLease) -> None:
        super().__init__()
        self._lease = lease

    @property
    def closed_because(self) -> str:
        """Who writes instead of this node."""
        holder = self._lease.holder
        if holder is None:
            why = f": {self._lease.trouble}" if self._lease.trouble else ""
            return f"this node is a standby: nobody has told it yet who the writer is{why}"
        return f"this node is a standby: {holder.owner_id} ({holder.node}) is the writer, with epoch {holder.epoch}"


@dataclass(frozen=True, slots=True)
class Standby:
    """How a node follows: what it was compared with last. `over` is set when it must be compared again."""

    lease: WriterLease
    compared: Compared
    poll_s: float
    ready_lag_s: float
    over: asyncio.Event

    @property
    def guard(self) -> StandbyGuard:
        """What says that nothing may be written."""
        return StandbyGuard(self.lease)

    @asynccontextmanager
    async def following(
        self, archive: Archive, event_log: Log, partitions: Partitions
    ) -> AsyncIterator["StandbyReport"]:
        """Follow `archive` into the log, and let partitions fold what comes there, whoever appended it."""

        def heard(partition: PartitionId) -> None:
            if opened := partitions.find(partition):
                opened.look()

        def hinted(message: Msg) -> None:
            with suppress(InvalidId):
                heard(PartitionId.of_token(message.subject.removeprefix(LIVE)))

        follower = ArchiveFollower(
            archive,
            event_log,
            compared=self.compared,
            holder_epoch=lambda: self.lease.holder.epoch if self.lease.holder else 0,
            heard=heard,
            poll_s=self.poll_s,
        )
        task = asyncio.create_task(follower.run(), name="follow the archive")
        task.add_done_callback(self._ended)
        listening = None
        with suppress(LogUnavailable):  # then the archive alone tells
            listening = await event_log.live.listen(f"{LIVE}>", hinted)
        try:
            yield StandbyReport(self, follower)
        finally:
            if listening is not None:
                listening()
            await end(task)

    def _ended(self, following: "asyncio.Task[None]") -> None:
        if not following.cancelled() and (error := following.exception()) is not None:
            log.error("following the archive failed; everything is compared anew", exc_info=error)
        self.over.set()


class StandbyReport(LeaseReport):
    """What a standby says of itself, in the place of what a writer says of its lease."""

    def __init__(self, standby: Standby, follower: ArchiveFollower) -> None:
        super().__init__(standby.lease)
        self._standby = standby
        self._follower = follower

    def checks(self) -> list[Check]:
        """Return whether what is read here is recent enough; a standby is ready although it takes no writes."""
        follower, limit = self._follower, self._standby.ready_lag_s
        value = f"{self._standby.guard.closed_because}; {follower.behind_s:.1f} s behind its archive"
        if trouble := follower.trouble or next(iter(follower.stopped.values()), ""):
            value += f": {trouble}"
        compared = bool(self._standby.compared.epoch)
        if not compared:
            value += "; not compared with it yet"
        ok = compared and not follower.stopped and (follower.behind_s <= limit or not limit)
        fix = "see that the object store can be reached; docs/failover.md"
        return [Check("standby", ok, value, f"at most {limit:g} s behind" if limit else "nothing stopped", fix)]

    def status(self) -> dict[str, Any] | None:
        """Return it as `GET /status` shows it."""
        said = super().status()
        return said and said | {
            "role": "standby",
            "writes": False,
            "why_not": self._standby.guard.closed_because,
            "trouble": said["trouble"] or self._follower.trouble,
            "behind_s": round(self._follower.behind_s, 1),
            "stopped": self._follower.stopped,
        }
