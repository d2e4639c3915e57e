"""The retention of the log as a part of a node, wired: what it asks, and what it says of itself."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Protocol

from api.system import Check
from events.archive import Archive
from events.log import Log
from events.write_guard import ALWAYS_OPEN, WriteGuard
from forge.domains import domains
from projectors.domain import Domain
from projectors.generations.errors import GenerationError
from projectors.generations.reading import current
from projectors.tasks import end
from schemas.ids import PartitionId, Position
from schemas.instants import now
from schemas.replicate import HeldReply, RetentionReply
from schemas.settings import Settings
from workers.log_retention.keeper import Limits, LogKeeper
from workers.log_retention.looking import Sources
from workers.log_retention.rule import Bounds, Follower

MIB = 1 << 20


class Replicas(Protocol):
    """Who follows partitions, and how one of them is given up."""

    def followers(self, partition: PartitionId) -> Sequence[Follower]: ...
    async def evict(self, partition: PartitionId, replica_id: str, reason: str) -> None: ...


class NoReplicas:
    """Of a log that nobody follows."""

    def followers(self, partition: PartitionId) -> Sequence[Follower]:
        """Return nobody."""
        return ()

    async def evict(self, partition: PartitionId, replica_id: str, reason: str) -> None:
        """Give nobody up."""


class LogRetentionService:
    """What is kept of the log on the server. Without an archive (`keeper` None) that is everything."""

    def __init__(self, keeper: LogKeeper | None) -> None:
        self._keeper = keeper

    def told(self) -> RetentionReply | None:
        """Return what the last look found."""
        if self._keeper is None:
            return None
        report, limits = self._keeper.report, self._keeper.limits
        return RetentionReply(
            used_bytes=report.used_bytes if report.rounds else None,
            cap_bytes=limits.cap_bytes or None,
            held=[HeldReply(partition=one.partition, by=one.by, records=one.records) for one in report.held],
            trouble=report.trouble,
        )

    async def checks(self) -> list[Check]:
        """Return whether the log keeps to the disk that it may take, if there is a bound."""
        if self._keeper is None or not (cap := self._keeper.limits.cap_bytes):
            return []
        report = self._keeper.report
        said = f"{report.used_bytes / MIB:.1f} MiB"
        if self._keeper.over_cap(report.used_bytes):
            held = ", ".join(f"{one.records} records of {one.partition} by {one.by}" for one in report.held[:3])
            said += f"; held: {held}" if held else f"; {report.trouble}" if report.trouble else ""
        return [
            Check(
                "log size",
                not self._keeper.over_cap(report.used_bytes),
                said,
                f"at most {cap / MIB:.1f} MiB (FORGE_LOG_DISK_CAP_BYTES)",
                "see who holds it: `forge replicate status`, docs/runbooks/while-it-runs.md",
            )
        ]

    async def refresh_metrics(self) -> None:
        """Nothing: the keeper sets its gauges when it looks."""


async def open_log_retention(
    settings: Settings,
    event_log: Log,
    archive: Archive | None,
    replicas: Replicas,
    closing: AsyncExitStack,
    guard: WriteGuard = ALWAYS_OPEN,
) -> LogRetentionService:
    """Start to let the server forget what is archived, if there is an archive and the settings do not forbid it."""
    if archive is None or not settings.log_retention_every_s:
        return LogRetentionService(None)
    known = domains(settings)

    async def covered(partition: PartitionId) -> int:
        return await covered_by(archive, known.get(partition.domain), partition)

    sources = Sources(event_log.reader, archive, covered, replicas.followers, now)
    bounds = Bounds(settings.log_retention_records, settings.log_retention_s)
    limits = Limits(settings.log_retention_every_s, bounds, settings.log_disk_cap_bytes)
    keeper = LogKeeper(event_log, sources, limits, replicas.evict, guard=guard)
    closing.push_async_callback(end, asyncio.create_task(keeper.run(), name="retain the log"))
    return LogRetentionService(keeper)


async def covered_by(archive: Archive, domain: Domain | None, partition: PartitionId) -> int:
    """Return the last record that the newest verified generation of each projection holds; 0 if one has none."""
    if domain is None:
        return 0
    positions = []
    for spec in domain.projections(partition.key):
        try:
            pointer = await current(archive, spec.name)
        except GenerationError:
            return 0  # what cannot be read vouches for nothing
        verified = pointer.verified_position if pointer is not None else None
        if verified is None or not await archive.knows(partition, position := Position.parse(verified)):
            return 0  # none was proved yet, or it is of a writer whose epoch was over
        positions.append(position.index)
    return min(positions, default=0)
