"""The routes that show replicas, take reports of where they stand, and have them take new copies."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from api.control_command import submit
from api.inputs import KEY, number, text
from api.parameters import query_number
from api.places import Documents, document, other_history, place
from api.positions import POSITION_HEADER, command_id
from api.replica_views import ReplicaViews
from api.routes import Reply, Request, Route
from api.tracking import REPORT, Tracking
from projectors.control.replicas.tracker import Replica
from projectors.document.history.history import History
from projectors.partitions import Partitions
from schemas.ids import PartitionId, Position
from schemas.problems import INVALID_PARAMETER, NOT_FOUND, TOO_MANY_REQUESTS, Refusal
from schemas.replicas import (
    REPLICA_ID_PATTERN,
    REPLICAS_OF_DOCUMENT_MAX,
    EvictReplica,
    ReasonBody,
    RecallReplica,
    ReplicaReport,
    ReplicaReportBody,
    ReplicasReply,
    ReplicaView,
)
from schemas.scopes import ANY_DB

PAGE, PAGE_MAX = 100, 500
AFTER_LENGTH_MAX = 300
MANAGE = "db.manage"
SEE_ALL = "system.read"
_REPLICA_ID = re.compile(REPLICA_ID_PATTERN)
PAGING = (
    text("after", "`next` of the page before.", maxLength=AFTER_LENGTH_MAX),
    number("limit", "Replicas of a page.", 1, PAGE_MAX, PAGE),
)


@dataclass(frozen=True, slots=True)
class ReplicasApi:
    """The handlers, with what they need."""

    views: ReplicaViews
    tracking: Tracking
    history: History
    documents: Documents
    partitions: Partitions

    def routes(self) -> Sequence[Route]:
        """Return the route table."""
        of_document = "/api/v1/db/{db_id}/replicas"
        one = f"{of_document}/{{replica_id}}"
        shown: dict[int, Any] = {200: ReplicasReply}
        gone = "the copy of the replica was given up, or what it needs next is gone: take a snapshot"
        return (
            Route(
                "GET",
                "/api/v1/replicas",
                SEE_ALL,
                self.list,
                inputs=PAGING,
                replies=shown,
                summary="Replicas of all documents: where each stands, its state and its lag",
            ),
            Route(
                "GET",
                of_document,
                MANAGE,
                self.list,
                resource="/replicas",
                inputs=PAGING,
                replies=shown,
                summary="Replicas of a document",
            ),
            Route(
                "PUT",
                one,
                REPORT,
                self.report,
                body=ReplicaReportBody,
                resource="/replicas",
                replies={200: ReplicaView, 409: "the position is of another history", 410: gone, 416: "it is ahead"},
                summary="Report where a replica stands that follows in a way of its own",
            ),
            Route(
                "POST",
                f"{one}/evict",
                MANAGE,
                self.evict,
                body=ReasonBody,
                resource="/replicas",
                inputs=(KEY,),
                replies={200: ReplicaView},
                summary="Keep the log no longer for a replica, until it has taken a new copy",
            ),
            Route(
                "POST",
                f"{one}/reseed",
                MANAGE,
                self.reseed,
                body=ReasonBody,
                resource="/replicas",
                inputs=(KEY,),
                replies={200: ReplicaView},
                summary="Have a replica take a new copy",
            ),
        )

    async def list(self, request: Request[None]) -> Reply:
        """Return a page of the replicas of one document, or of all."""
        limit = query_number(request, "limit", PAGE, 1, PAGE_MAX)
        db_id, _, replica_id = request.query.get("after", "")[:AFTER_LENGTH_MAX].partition("/")
        tracker = self.tracking.tracker
        if request.db_id == ANY_DB:
            known = tracker.everyone()
        else:
            document(request, self.documents)
            known = tracker.of_document(request.db_id)
        page = [one for one in known if _key(one) > (db_id, replica_id)][: limit + 1]
        views = await self.views.views(page[:limit])
        following = "/".join(_key(page[limit - 1])) if len(page) > limit else None
        return Reply(200, ReplicasReply(replicas=views, next=following))

    async def report(self, request: Request[ReplicaReportBody]) -> Reply:
        """Take in a report of a place that the history of the document has."""
        partition, body = document(request, self.documents), request.body
        report = ReplicaReport(
            db_id=request.db_id,
            replica_id=_named(request),
            copy_id=body.copy_id,
            kind=body.kind,
            position=body.position,
            by=request.caller.name,
        )
        self.tracking.check(report, partition)
        await self._check_place(report, partition, body.hash)
        if self.tracking.tracker.heard(report) is None:
            why = f"{request.db_id} has {REPLICAS_OF_DOCUMENT_MAX} replicas already, or this node knows too many"
            raise Refusal(TOO_MANY_REQUESTS.problem(why, fix="Evict those that are no more: `forge replica evict`."))
        return Reply(200, await self._shown(request))

    async def _check_place(self, report: ReplicaReport, partition: PartitionId, hash_: str) -> None:
        """Refuse a place that the history does not have: 409, 410 or 416."""
        try:
            cursor = await place(self.history, partition, Position.parse(report.position))
            if hash_ and hash_ != cursor.hash:
                raise other_history(partition, f"record {report.position} has the hash {cursor.hash} here")
        except Refusal as refusal:
            self.tracking.refused(report, refusal)
            raise

    async def evict(self, request: Request[ReasonBody]) -> Reply:
        """Give up the copy of a replica for good."""
        return await self._give_up(request, EvictReplica)

    async def reseed(self, request: Request[ReasonBody]) -> Reply:
        """Ask a replica to take a new copy."""
        return await self._give_up(request, RecallReplica)

    async def _give_up(self, request: Request[ReasonBody], kind: type[EvictReplica] | type[RecallReplica]) -> Reply:
        document(request, self.documents)
        await self.tracking.tracker.note()  # one that was only just heard is not yet known to the control plane
        command = kind(db_id=request.db_id, replica_id=_named(request), reason=request.body.reason)
        answer = await submit(self.partitions, request, command, command_id(request))
        return Reply(200, await self._shown(request), {POSITION_HEADER: str(answer.position)})

    async def _shown(self, request: Request[Any]) -> ReplicaView:
        known = self.tracking.tracker.find(request.db_id, _named(request))
        if known is None:
            raise Refusal(NOT_FOUND.problem("the replica is no longer known", fix="It is forgotten after 30 days."))
        (view,) = await self.views.views([known])
        return view


def _named(request: Request[Any]) -> str:
    """Return the replica that a path names; refuse (400) what is no name of one."""
    name = request.params["replica_id"]
    if not _REPLICA_ID.fullmatch(name):
        why = f"a replica's name has up to 80 small letters, digits, dots and hyphens: {name[:100]!r}"
        raise Refusal(INVALID_PARAMETER.problem(why, field="replica_id"))
    return name


def _key(replica: Replica) -> tuple[str, str]:
    return replica.report.db_id, replica.report.replica_id
