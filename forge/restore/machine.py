"""Bring a whole machine back from its archive while no node runs on it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from events.archive import Archive
from events.streams import ensure_streams
from forge.lease_place import LeasePlace
from forge.log_access import LogAccess
from forge.restore.bring_up import NOBODY, Watch
from forge.restore.comparing import compare, forget, remember
from forge.restore.outcome import Done, Outcome
from forge.restore.payloads import Payloads, fetch_payloads
from schemas.settings import Settings

NEIGHBOURS_SHOWN = 5


class NothingArchived(Exception):
    """There is no archive at that place; `neighbours` are names beside it that may be meant."""

    def __init__(self, archive: Archive, neighbours: Sequence[str]) -> None:
        super().__init__(f"nothing is archived in {archive.name}")
        self.neighbours = neighbours


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of all partitions, and how long that took."""

    archive: str
    partitions: Sequence[Outcome]
    payloads: Payloads
    seconds: float

    @property
    def newest(self) -> str:
        """When the newest record that is here was written; empty if nobody knows."""
        return max((outcome.time for outcome in self.partitions), default="")

    @property
    def changed(self) -> Sequence[Outcome]:
        """The partitions that were made anew or caught up."""
        return [o for o in self.partitions if o.done in (Done.CAUGHT_UP, Done.RESTORED, Done.SET_ASIDE)]

    @property
    def size_bytes(self) -> int:
        """How large the databases of the changed partitions are."""
        return sum(outcome.size_bytes for outcome in self.changed)


async def restore_machine(
    access: LogAccess,
    archive: Archive,
    settings: Settings,
    *,
    payloads: bool = False,
    watch: Watch = NOBODY,
) -> Restored:
    """Bring everything to where the archive stands; what is of another history is put aside.

    Payloads that unfinished jobs need come too; with `payloads`, all. Raise `NothingArchived`, and what `bring_up` and
    `fetch_payloads` raise.
    """
    began = time.monotonic()
    if not [partition async for partition in archive.partitions()]:
        raise NothingArchived(archive, await _neighbours(archive))
    # What follows may lack answered writes that were not archived: their positions are not given out again.
    await LeasePlace(settings.data_dir).forget()
    await ensure_streams(await access.log.admin.jetstream(), settings.nats_replicas)
    await asyncio.to_thread(forget, settings.data_dir)
    outcomes, compared = await compare(settings, access.log, archive, alone_aside=True, watch=watch)
    await asyncio.to_thread(remember, settings.data_dir, compared)
    fetched = await fetch_payloads(archive, settings, everything=payloads)
    return Restored(archive.name, list(outcomes.values()), fetched, time.monotonic() - began)


async def _neighbours(archive: Archive) -> Sequence[str]:
    """Return the folders beside the prefix of an archive."""
    parent = archive.key("").rstrip("/").rpartition("/")[0]
    below = f"{parent}/" if parent else ""
    found = await archive.store.folders(below, limit=NEIGHBOURS_SHOWN)
    return [f"{below}{name}" for name in found.names]
