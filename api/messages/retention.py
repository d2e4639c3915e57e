"""The routes of retention: which of its messages a document keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from api.control_command import submit
from api.fences import check_fences
from api.inputs import IF_FENCE, KEY
from api.positions import POSITION_HEADER, command_id
from api.routes import Reply, Request, Route
from projectors.control import queries
from projectors.control.registry import Registry
from projectors.partitions import Partitions
from projectors.readers import Readers
from schemas.control import SetMessageRetention
from schemas.publishing import RetentionReply, RetentionRequest

ACTION = "db.manage"
_PATH = "/api/v1/db/{db_id}/messages/retention"


@dataclass(frozen=True, slots=True)
class RetentionApi:
    """The handlers, with what they need; `readers` are of `control.db`."""

    registry: Registry
    partitions: Partitions
    readers: Readers

    def routes(self) -> Sequence[Route]:
        """Return the route table of retention."""
        shown = {200: RetentionReply}
        return (
            Route("GET", _PATH, ACTION, self.show, replies=shown, summary="Which messages a document keeps"),
            Route(
                "PUT",
                _PATH,
                ACTION,
                self.set,
                body=RetentionRequest,
                inputs=(KEY, IF_FENCE),
                replies=shown,
                summary="Say which messages a document keeps: all bounds that are given hold, and no other",
            ),
            Route(
                "DELETE",
                _PATH,
                ACTION,
                self.remove,
                inputs=(KEY, IF_FENCE),
                replies=shown,
                summary="Let a document keep all messages",
            ),
        )

    async def show(self, request: Request[None]) -> Reply:
        """Return which messages it keeps."""
        db_id = self.registry.require(request.db_id).db_id
        row = await self.readers.read(lambda db: queries.retention(db, db_id))
        return Reply(200, {"db_id": db_id, **row._asdict()})

    async def set(self, request: Request[RetentionRequest]) -> Reply:
        """Say it anew."""
        return await self._set(request, SetMessageRetention(db_id=request.db_id, **dict(request.body)))

    async def remove(self, request: Request[None]) -> Reply:
        """Keep all."""
        return await self._set(request, SetMessageRetention(db_id=request.db_id))

    async def _set(self, request: Request[Any], command: SetMessageRetention) -> Reply:
        await check_fences(request, self.partitions, self.registry)
        answer = await submit(self.partitions, request, command, command_id(request))
        return Reply(200, answer.value, {POSITION_HEADER: str(answer.position)})
