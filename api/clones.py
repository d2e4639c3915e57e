"""The route that makes a document out of another one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from api.at import parse_moment
from api.auth import Principal
from api.control_command import submit
from api.fences import check_fences
from api.inputs import IF_FENCE
from api.positions import POSITION_HEADER
from api.routes import Reply, Request, Route
from projectors.control.commands import describe
from projectors.control.queries import DocumentRow
from projectors.control.registry import Registry
from projectors.document.domain import document_partition
from projectors.document.past.cloner import Cloner
from projectors.partitions import Partitions
from schemas.clone import CloneReply, CloneRequest
from schemas.control import CreateDocument
from schemas.ids import InvalidId, Position, parse_db_id
from schemas.problems import CONFLICT, FORBIDDEN, INVALID_BODY, Refusal


@dataclass(frozen=True, slots=True)
class ClonesApi:
    """The handler, with what it needs; `may_create` says who may make a document of a name."""

    registry: Registry
    partitions: Partitions
    cloner: Cloner
    may_create: Callable[[Principal, str], bool]

    def routes(self) -> Sequence[Route]:
        """Return the route table."""
        return (
            Route(
                "POST",
                "/api/v1/db/{db_id}/clone",
                "query.read",
                self.clone,
                body=CloneRequest,
                resource="/clone",
                inputs=(IF_FENCE,),
                replies={201: CloneReply, 200: CloneReply},
                summary="Make a document with the content of this one, now or at an earlier moment",
            ),
        )

    async def clone(self, request: Request[CloneRequest]) -> Reply:
        """Copy, then register: nobody sees half a clone. The same request again goes on, or finds it done."""
        body, principal = request.body, request.caller
        self.registry.require(request.db_id)
        target = _target(request)
        if not self.may_create(principal, target):
            raise Refusal(FORBIDDEN.problem(f"to make {target} needs the scope db.create on it", field="db_id"))
        moment = None if body.at is None else parse_moment(body.at, "at")
        await check_fences(request, self.partitions, self.registry)
        if (row := self.registry.find(target)) is not None:
            return await self._again(request, row, moment)
        position = await self.cloner.copy(request.db_id, target, moment, principal=principal.name)
        command = CreateDocument(db_id=target, name=body.name, by=principal.name)
        answer = await submit(self.partitions, request, command)
        return self._reply(201, answer.value["document"], request.db_id, str(position))

    async def _again(self, request: Request[CloneRequest], row: DocumentRow, moment: Position | str | None) -> Reply:
        """Answer for a document that is there already: it may be this very clone."""
        if row.owner == request.caller.name and not row.deleted_at:
            found = await self.cloner.progress(row.db_id)
            same = found.source == request.db_id and (
                not isinstance(moment, Position) or found.source_position == str(moment)
            )
            if same and found.whole and found.source_position:
                return self._reply(200, describe(row), request.db_id, found.source_position)
        why = f"there is a document {row.db_id} already"
        raise Refusal(CONFLICT.problem(why, fix="Choose another db_id.", field="db_id"))

    def _reply(self, status: int, document: dict[str, Any], source: str, source_position: str) -> Reply:
        reply = CloneReply(**document, source=source, source_position=source_position)
        headers = {"location": f"/api/v1/db/{reply.db_id}"}
        if (position := self.partitions[document_partition(reply.db_id)].position) is not None:
            headers[POSITION_HEADER] = str(position)
        return Reply(status, reply, headers)


def _target(request: Request[CloneRequest]) -> str:
    try:
        target = parse_db_id(request.body.db_id)
    except InvalidId as error:
        raise Refusal(INVALID_BODY.problem(str(error), field="db_id")) from error
    if target == request.db_id:
        raise Refusal(INVALID_BODY.problem("a clone needs another name than its source", field="db_id"))
    return target
