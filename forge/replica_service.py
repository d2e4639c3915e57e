"""Replicas as a part of a node: what is heard of them, noted, measured, and asked by the log's retention."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import get_args

from prometheus_client import Gauge

from api.control import ControlPlane
from api.replica_views import ReplicaViews
from api.system import Check
from events.log import Log
from projectors.control.domain import PARTITION as CONTROL
from projectors.control.replicas.rows import every
from projectors.control.replicas.states import Limits, holds
from projectors.control.replicas.tracker import ReplicaTracker
from projectors.document.history.history import History
from projectors.document.history.lag import lag
from projectors.partitions import Partitions
from projectors.tasks import end
from schemas.ids import PartitionId
from schemas.problems import CONFLICT, Refusal
from schemas.replicas import EvictReplica, NoteReplicas, ReplicaReport, ReplicaState, ReplicaView
from schemas.settings import Settings
from workers.log_retention.rule import Follower

TIMEOUT_S = 10.0
PRINCIPAL = "forge"
MEASURED_MAX = 500  # replicas at a scrape, those heard last
TOLD_MAX = 50  # of them, those with most lag have gauges of their own

states_gauge = Gauge("forge_replicas", "Replicas by state, of those that were heard last.", ["state"])
records_gauge = Gauge("forge_replica_lag_records", "Records that a replica lacks.", ["replica"])
bytes_gauge = Gauge("forge_replica_lag_bytes", "Bytes that a replica lacks.", ["replica"])
seconds_gauge = Gauge("forge_replica_lag_seconds", "Age of the first record that a replica lacks.", ["replica"])


class ReplicaService:
    """What the other parts of a node ask about replicas."""

    def __init__(self, partitions: Partitions, tracker: ReplicaTracker, views: ReplicaViews, limits: Limits) -> None:
        self._partitions = partitions
        self._limits = limits
        self.tracker = tracker
        self.views = views

    async def checks(self) -> list[Check]:
        """Return nothing: a replica that is behind is no reason to send nobody to its node."""
        return []

    def followers(self, partition: PartitionId) -> Sequence[Follower]:
        """Return the replicas for which the log of a partition is kept; refuse (503) before they are known."""
        if partition.domain != "doc":
            return ()
        self.tracker.require_loaded()
        now = self.tracker.clock()
        found = [(one, one.standing(now)) for one in self.tracker.of_document(partition.key)]
        return [
            Follower(one.report.replica_id, standing.position.index, standing.silent_s >= self._limits.stalled_s)
            for one, standing in found
            if holds(standing, self._limits)
        ]

    async def evict(self, partition: PartitionId, replica_id: str, reason: str) -> None:
        """Give up the copy of a replica that is stalled; raise `Refusal`, also if it was heard meanwhile."""
        await self.tracker.note()
        known = self.tracker.find(partition.key, replica_id)
        if known is None or known.standing(self.tracker.clock()).silent_s < self._limits.stalled_s:
            raise Refusal(CONFLICT.problem(f"the replica {replica_id} was heard a moment ago"))
        command = EvictReplica(db_id=partition.key, replica_id=replica_id, reason=reason)
        await self._partitions.submit(CONTROL, command, principal=PRINCIPAL, timeout_s=TIMEOUT_S)

    async def refresh_metrics(self) -> None:
        """Set the gauges; they stay as they are while the log is away."""
        heard = sorted(self.tracker.everyone(), key=lambda one: -one.heard_at)[:MEASURED_MAX]
        try:
            views = await self.views.views(heard)
        except Refusal:
            return
        counted = Counter(view.state for view in views)
        for state in get_args(ReplicaState):
            states_gauge.labels(state).set(counted[state])
        for gauge in (records_gauge, bytes_gauge, seconds_gauge):
            gauge.clear()
        for view in sorted(views, key=lambda one: -(one.lag_records or 0))[:TOLD_MAX]:
            _tell(view)


def _tell(view: ReplicaView) -> None:
    name = f"{view.db_id}/{view.replica_id}"
    for gauge, value in (
        (records_gauge, view.lag_records),
        (bytes_gauge, view.lag_bytes),
        (seconds_gauge, view.lag_s),
    ):
        if value is not None:
            gauge.labels(name).set(value)


def limits(settings: Settings) -> Limits:
    """Return when a replica counts as what."""
    return Limits(settings.replica_lag_s, settings.replica_stalled_s, settings.replica_ttl_s)


async def open_replicas(
    settings: Settings,
    event_log: Log,
    partitions: Partitions,
    plane: ControlPlane,
    history: History,
    closing: AsyncExitStack,
) -> ReplicaService:
    """Start to track replicas; `closing` ends it, and notes what was heard last."""

    async def note(reports: tuple[ReplicaReport, ...]) -> None:
        command = NoteReplicas(reports=reports)
        await partitions.submit(CONTROL, command, principal=PRINCIPAL, timeout_s=TIMEOUT_S)

    tracker = ReplicaTracker(lambda: plane.readers.read(every), note, heartbeat_s=settings.replica_heartbeat_s)
    partitions.listen(tracker.committed)
    task = asyncio.create_task(tracker.run(), name="track replicas")

    async def stop() -> None:
        await end(task)
        with suppress(Refusal):
            await tracker.note()

    closing.push_async_callback(stop)
    views = ReplicaViews(tracker, partial(lag, history, event_log.reader), limits(settings))
    return ReplicaService(partitions, tracker, views, limits(settings))
