"""How replicas are shown: each with its state and its lag, found out for a bounded number at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from events.errors import LogError
from projectors.control.replicas.states import Limits, Reach, Standing, holds, state
from projectors.control.replicas.tracker import Replica, ReplicaTracker
from projectors.document.domain import document_partition
from projectors.document.history.lag import Lag
from schemas.ids import PartitionId, Position
from schemas.problems import UNAVAILABLE, Refusal
from schemas.replicas import ReplicaView

MEASURED_AT_ONCE = 8

Measure = Callable[[PartitionId, Position], Awaitable[Lag]]
"""Says how far somebody who stands at a position of a partition is behind; raises `LogError`."""


@dataclass(frozen=True, slots=True)
class ReplicaViews:
    """Shows replicas. `views` refuses (503) while the log is away."""

    tracker: ReplicaTracker
    measure: Measure
    limits: Limits

    async def views(self, replicas: Sequence[Replica]) -> list[ReplicaView]:
        """Return them in their order."""
        limit = asyncio.Semaphore(MEASURED_AT_ONCE)

        async def one(replica: Replica) -> ReplicaView:
            async with limit:
                return self._view(replica, await self.measure(_partition(replica), replica.position))

        try:
            return list(await asyncio.gather(*map(one, replicas)))
        except LogError as error:
            raise Refusal(UNAVAILABLE.problem(f"the log is away: {error}")) from error

    def _view(self, replica: Replica, lag: Lag) -> ReplicaView:
        report, standing = replica.report, replica.standing(self.tracker.clock())
        return ReplicaView(
            db_id=report.db_id,
            replica_id=report.replica_id,
            copy_id=report.copy_id,
            kind=report.kind,
            state=state(standing, lag.reach, self.limits),
            position=str(replica.position),
            head=str(lag.reach.head),
            lag_records=lag.records,
            lag_bytes=lag.size_bytes,
            lag_s=lag.seconds,
            last_seen=replica.seen,
            holds_log=keeps_log(standing, lag.reach, self.limits),
            reason=replica.reason,
            reported_by=report.by,
        )


def keeps_log(standing: Standing, reach: Reach, limits: Limits) -> bool:
    """Say whether the log is kept for a replica, which one that has all of it does not need."""
    return holds(standing, limits) and standing.position.index < reach.head.index


def _partition(replica: Replica) -> PartitionId:
    return document_partition(replica.report.db_id)
