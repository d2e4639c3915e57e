"""What requests of a replica tell of it: they name the replica and its copy, and are told if that was given up."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from api.inputs import Input, position_input, text
from api.places import query_position, recalled
from api.routes import Request
from projectors.control.replicas.tracker import Replica, ReplicaTracker
from schemas.ids import PartitionId, Position
from schemas.problems import INVALID_PARAMETER, OTHER_HISTORY, Refusal
from schemas.replicas import ReplicaReport

REPORT = "replica.report"
TRACKED_HEADER = "forge-replica"
WHO = (
    text("replica", "The name of the replica that asks, which is then tracked if its token has `replica.report`."),
    text("copy", "16 hex digits that the replica makes up anew for each snapshot."),
    text("kind", "What the replica is, in a word: `file`, `program`."),
)
INPUTS: tuple[Input, ...] = (
    *WHO,
    position_input("applied", "All up to there is on the replica's disk; the position asked for if it is left out."),
)


@dataclass(frozen=True, slots=True)
class Tracking:
    """Takes in what requests tell of replicas."""

    tracker: ReplicaTracker

    def following(self, request: Request[Any], position: Position) -> ReplicaReport | None:
        """Return what a request for records after `position` says of a replica; see `_report`."""
        applied = query_position(request, "applied") or position
        if applied > position:
            why = f"applied is {applied}, behind the position asked with, {position}"
            raise Refusal(INVALID_PARAMETER.problem(why, field="applied"))
        return _report(request, applied, bootstrapping=False)

    def bootstrapping(self, request: Request[Any], position: Position) -> ReplicaReport | None:
        """Return what a request for a snapshot that stands at `position` says of a replica; see `_report`."""
        return _report(request, position, bootstrapping=True)

    def check(self, report: ReplicaReport | None, partition: PartitionId) -> None:
        """Refuse (410) a replica whose copy was given up."""
        if report is None:
            return
        known = self.tracker.find(report.db_id, report.replica_id)
        if known is not None and known.decided and known.report.copy_id == report.copy_id:
            raise given_up(known, partition)

    def heard(self, report: ReplicaReport | None, partition: PartitionId) -> dict[str, str]:
        """Take in a report that fits the history; return what the answer's headers say of it."""
        if report is None:
            return {}
        known = self.tracker.heard(report)
        if known is not None and known.decided:
            raise given_up(known, partition)
        return {TRACKED_HEADER: "tracked" if known is not None else "too-many"}

    def begun(self, report: ReplicaReport | None) -> dict[str, str]:
        """Take in that a replica takes a snapshot, for which the log is kept from there on; nobody is kept from it."""
        known = None if report is None else self.tracker.heard(report)
        return {} if known is None else {TRACKED_HEADER: "tracked"}

    def refused(self, report: ReplicaReport | None, refusal: Refusal) -> None:
        """Note of a replica that is of another history that it is."""
        if report is not None and refusal.problem.type == OTHER_HISTORY.uri:
            self.tracker.fence(report, refusal.problem.detail)


def _report(request: Request[Any], applied: Position, *, bootstrapping: bool) -> ReplicaReport | None:
    """Return what a request says of a replica, None if it names none or may not; refuse (400) what is malformed."""
    name = request.query.get("replica", "")
    if not name or not request.allows(REPORT, "/replicas"):
        return None
    try:
        return ReplicaReport(
            db_id=request.db_id,
            replica_id=name,
            copy_id=request.query.get("copy", ""),
            kind=request.query.get("kind", "file"),
            position=str(applied),
            bootstrapping=bootstrapping,
            by=request.caller.name,
        )
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0]).removesuffix("_id")
        raise Refusal(INVALID_PARAMETER.problem(f"{field}: {error.errors()[0]['msg']}", field=field)) from error


def given_up(known: Replica, partition: PartitionId) -> Refusal:
    """Return the refusal for a replica that has to take a new copy."""
    what = "evicted" if known.decided == "evicted" else "asked to take a new copy"
    why = f"the replica {known.report.replica_id} was {what}" + (f": {known.reason}" if known.reason else "")
    return recalled(partition, why)
