"""What a node has heard of replicas: kept in memory, noted in the control plane now and then, one event for all."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from projectors.control.replicas.rows import EVICTED, RECALLED, ReplicaRow
from projectors.control.replicas.states import Standing
from projectors.outcome import Committed
from schemas.ids import Position
from schemas.instants import now as wall_clock
from schemas.problems import UNAVAILABLE, Refusal
from schemas.replicas import (
    FORGOTTEN_AFTER_S,
    REPLICAS_MAX,
    REPLICAS_OF_DOCUMENT_MAX,
    REPORTS_MAX,
    ReplicaEvicted,
    ReplicaRecalled,
    ReplicaReport,
)

log = structlog.get_logger(__name__)

Rows = Callable[[], Awaitable[Sequence[ReplicaRow]]]
"""Reads what the control plane knows; raises `Refusal` while nobody can say."""

Note = Callable[[tuple[ReplicaReport, ...]], Awaitable[object]]
"""Has the control plane note reports; raises `Refusal` if it cannot."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica as it was last heard of. `heard_at` is a moment of the steady clock, `seen` one of the wall clock."""

    report: ReplicaReport
    position: Position
    heard_at: float
    seen: str
    decided: str = ""
    reason: str = ""
    fenced: bool = False
    unnoted: bool = True

    def standing(self, now: float) -> Standing:
        """Return what its state follows from."""
        silent_s = max(0.0, now - self.heard_at)
        return Standing(self.position, silent_s, self.report.bootstrapping, self.decided, self.fenced)


class ReplicaTracker:
    """Hand `committed` to `Partitions.listen`, and run `run`.

    Silence is measured by a clock that nobody sets, and for replicas of which only the log knows from the start of
    this node: that a node was down is no fault of theirs.
    """

    def __init__(
        self, rows: Rows, note: Note, *, heartbeat_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rows = rows
        self._note = note
        self._heartbeat_s = heartbeat_s
        self._known: dict[str, dict[str, Replica]] = {}
        self.clock = clock
        self.loaded = False  # whether it knows what the control plane knows

    def heard(self, report: ReplicaReport) -> Replica | None:
        """Take in a report; return what is known now, None if there are too many replicas already.

        A position never goes back while the copy stays the same; of a copy that was given up nothing changes.
        """
        of_document = self._known.setdefault(report.db_id, {})
        before = of_document.get(report.replica_id)
        if before is None and not self._room(report.db_id):
            return None
        heard = Replica(report, report.stands_at, self.clock(), wall_clock())
        if before is not None and before.report.copy_id == report.copy_id:
            if before.decided:
                return before
            heard = replace(heard, position=max(before.position, heard.position))
        of_document[report.replica_id] = heard
        return heard

    def fence(self, report: ReplicaReport, why: str) -> None:
        """Note that a replica which is known belongs to another history, until it has another copy."""
        known = self._known.get(report.db_id, {}).get(report.replica_id)
        if known is not None and known.report.copy_id == report.copy_id:
            fenced = replace(known, fenced=True, reason=why, heard_at=self.clock(), seen=wall_clock())
            self._known[report.db_id][report.replica_id] = fenced

    def find(self, db_id: str, replica_id: str) -> Replica | None:
        """Return one replica."""
        return self._known.get(db_id, {}).get(replica_id)

    def of_document(self, db_id: str) -> list[Replica]:
        """Return the replicas of one document, by name."""
        return [one for _, one in sorted(self._known.get(db_id, {}).items())]

    def everyone(self) -> list[Replica]:
        """Return all replicas, by document and name."""
        return [one for db_id in sorted(self._known) for one in self.of_document(db_id)]

    def require_loaded(self) -> None:
        """Refuse (503) while it is not known which replicas there are."""
        if not self.loaded:
            raise Refusal(UNAVAILABLE.problem("it is not known yet which replicas there are"))

    def committed(self, committed: Committed) -> None:
        """Take in what was decided about replicas, at once."""
        for fact in committed.facts:
            if isinstance(fact, ReplicaEvicted | ReplicaRecalled):
                known = self.find(fact.db_id, fact.replica_id)
                if known is not None and known.report.copy_id == fact.copy_id:
                    decided = EVICTED if isinstance(fact, ReplicaEvicted) else RECALLED
                    self._known[fact.db_id][fact.replica_id] = replace(known, decided=decided, reason=fact.reason)

    async def run(self) -> None:
        """Compare with the control plane, and note there what was heard, for ever."""
        told = ""
        while True:
            try:
                await self.load()
                await self.note()
                told = ""
            except Refusal as refusal:  # on a standby it stays so
                if told != (told := refusal.problem.detail):
                    log.info("replicas are not noted now", reason=told)
            await asyncio.sleep(self._heartbeat_s)

    async def load(self) -> None:
        """Take in what the control plane knows, of other nodes too; raise `Refusal`."""
        now = self.clock()
        for row in await self._rows():
            self._take(row, now)
        for db_id, of_document in list(self._known.items()):
            for replica_id, known in list(of_document.items()):
                if now - known.heard_at > FORGOTTEN_AFTER_S:
                    del of_document[replica_id]
            if not of_document:
                del self._known[db_id]
        self.loaded = True

    def _take(self, row: ReplicaRow, now: float) -> None:
        before = self.find(row.db_id, row.replica_id)
        if before is not None and before.seen >= row.last_seen and before.report.copy_id != row.copy_id:
            return  # a newer copy, not noted yet
        same = before is not None and before.report.copy_id == row.copy_id
        report = ReplicaReport(
            db_id=row.db_id,
            replica_id=row.replica_id,
            copy_id=row.copy_id,
            kind=row.kind,
            position=str(row.position),
            bootstrapping=row.bootstrapping,
            by=row.reported_by,
        )
        taken = Replica(report, row.position, now, row.last_seen, row.decided, row.reason, unnoted=False)
        if same and before is not None:
            if before.seen >= row.last_seen:
                taken = replace(before, decided=row.decided, reason=before.reason or row.reason)
            if before.decided:  # since the rows were read, perhaps; it stays so as long as the copy
                taken = replace(taken, decided=before.decided, reason=before.reason)
            taken = replace(taken, position=max(before.position, row.position), fenced=before.fenced)
        self._known.setdefault(row.db_id, {})[row.replica_id] = taken

    async def note(self) -> None:
        """Have noted what was heard since the last time; raise `Refusal`."""
        heard = [one for one in self.everyone() if one.unnoted and not one.decided]
        for start in range(0, len(heard), REPORTS_MAX):
            part = heard[start : start + REPORTS_MAX]
            await self._note(tuple(one.report.model_copy(update={"position": str(one.position)}) for one in part))
            for one in part:
                of_document = self._known.get(one.report.db_id, {})
                if of_document.get(one.report.replica_id) is one:
                    of_document[one.report.replica_id] = replace(one, unnoted=False)

    def _room(self, db_id: str) -> bool:
        in_all = sum(map(len, self._known.values()))
        return len(self._known.get(db_id, {})) < REPLICAS_OF_DOCUMENT_MAX and in_all < REPLICAS_MAX
