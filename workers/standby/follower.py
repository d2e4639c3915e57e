"""Follows the archive that another node writes into the log here, record by record as they are.

So everything that reads the log works on a standby as on the writer, and a takeover finds its history in place.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from events.append import Appended, append
from events.archive import EVERYTHING, Archive
from events.backoff import delay
from events.cursor import Cursor
from events.errors import HistoryBegins, LogDamaged, LogError, LogUnavailable
from events.log import Log
from events.objects.errors import StoreError
from events.seek import seek_end
from projectors.tasks import for_each
from schemas.archive import mark_key
from schemas.ids import START, PartitionId
from workers.standby import metrics
from workers.standby.changes import DAMAGED, changes, marks
from workers.standby.compared import Compared

COPIED_AT_ONCE = 8  # partitions; each holds one segment in memory
RETRY_S, RETRY_MAX_S = 0.5, 15.0
ALL_EVERY_S = 15.0  # so often at most all of a stream is looked through because its mark is damaged

log = structlog.get_logger(__name__)


class ArchiveFollower:
    """Run `run`, which ends when another writer has begun an epoch, or something that is missing here is not archived
    any more: then what is here must be compared anew.

    `compared` is what was found last, and is kept up to date. `holder_epoch` tells the epoch of the lease as it was
    last seen, `heard` hears of each partition that has news.
    """

    def __init__(
        self,
        archive: Archive,
        event_log: Log,
        *,
        compared: Compared,
        holder_epoch: Callable[[], int],
        heard: Callable[[PartitionId], None],
        poll_s: float,
    ) -> None:
        self._archive = archive
        self._log = event_log
        self._compared = compared
        self._holder_epoch = holder_epoch
        self._heard = heard
        self._poll_s = poll_s
        self._caught_up_at = time.monotonic()
        self._fell_behind = False
        self.trouble = ""
        self.stopped: dict[str, str] = {}

    @property
    def behind_s(self) -> float:
        """Since when it may be that something is archived that is not here."""
        return time.monotonic() - self._caught_up_at

    async def run(self) -> None:
        """Follow until the history has changed hands, or this node has fallen behind its beginning."""
        failures = 0
        while not self._fell_behind and not await self._changed_hands():
            try:
                begun = time.monotonic()
                damaged = await self._round()
                self._caught_up_at, failures = begun, 0
                self._say(_of_marks(damaged), "a mark of the archive is damaged")
                metrics.behind_seconds.set(0)
                await asyncio.sleep(max(self._poll_s, ALL_EVERY_S) if damaged else self._poll_s)
            except (LogError, StoreError) as error:
                failures += 1
                self._say(str(error))
                metrics.behind_seconds.set(self.behind_s)
                await asyncio.sleep(delay(failures, base_s=RETRY_S, cap_s=RETRY_MAX_S, rng=random.Random()))

    def _say(self, trouble: str, event: str = "following the archive waits") -> None:
        if trouble not in ("", self.trouble):
            log.warning(event, reason=trouble)
        self.trouble = trouble

    async def _changed_hands(self) -> bool:
        """Say whether the newest epoch is another one than when this node was compared with the archive."""
        try:
            return (await self._archive.epochs.table(self._holder_epoch())).epoch != self._compared.epoch
        except (LogError, StoreError) as error:
            self._say(str(error))
            return False

    async def _round(self) -> list[str]:
        """Copy what has changed since the last round; return the streams of which only looking at all tells that."""
        now = await marks(self._archive)
        found: set[PartitionId] = set()
        for stream, partitions in changes(self._compared.marks, now):
            if partitions is None:
                partitions = frozenset([one async for one in self._archive.partitions(stream)])
            found |= partitions
        await for_each(sorted(found, key=str), self._copy, COPIED_AT_ONCE)
        self._compared.marks = now
        return [stream for stream, mark in now.items() if mark == DAMAGED]

    async def _copy(self, partition: PartitionId) -> None:
        """Append what is archived of a partition and not here; one that cannot be followed stops, the others go on."""
        if str(partition) in self.stopped:
            return
        try:
            begun = after = await seek_end(self._log.reader, partition)
        except LogDamaged as error:
            return self._stop(partition, error)
        sure = self._compared.ends.pop(partition, START) == begun.position  # else it may hold more than is archived
        try:
            async for entry in self._archive.read(partition, begun, EVERYTHING):
                outcome = await append(self._log.writer, entry.record, after.sequence)
                if not isinstance(outcome, Appended):
                    sure = False
                    break  # the writer itself writes this log
                after, sure = Cursor(entry.cursor.position, entry.cursor.hash, outcome.sequence), True
                self._compared.appended(partition, outcome.sequence)
                metrics.records.inc()
        except HistoryBegins as error:
            sure, self._fell_behind = False, True
            log.warning("fell behind the archive", partition=str(partition), reason=str(error))
        except LogDamaged as error:
            sure = False
            self._stop(partition, error)
        if sure:
            self._compared.ends[partition] = after.position
        if after != begun:
            await self._tell(partition, after)

    def _stop(self, partition: PartitionId, error: LogDamaged) -> None:
        self._compared.ends.pop(partition, None)
        self.stopped[str(partition)] = str(error)
        log.error("not followed any more", partition=str(partition), reason=str(error))

    async def _tell(self, partition: PartitionId, cursor: Cursor) -> None:
        self._heard(partition)
        with suppress(LogUnavailable):  # it is a hint only
            await self._log.live.send(partition.live_subject, str(cursor.position).encode())


def _of_marks(damaged: Sequence[str]) -> str:
    """Return what a person shall know of damaged marks, empty if none is."""
    if not damaged:
        return ""
    names = ", ".join(mark_key(stream) for stream in damaged)
    return f"damaged in the archive: {names}; all of it is looked through until the writer has stored it anew"
