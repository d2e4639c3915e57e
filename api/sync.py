"""The route by which changes made in a copy of a document come back to it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from api.fences import fences
from api.inputs import IF_FENCE, KEY
from api.leaving import given_up_when_client_leaves
from api.places import refusals
from api.positions import POSITION_HEADER, command_id
from api.routes import Reply, Request, Route
from projectors.control.registry import Registry
from projectors.document.domain import document_partition, document_path
from projectors.document.history.history import History
from projectors.document.sync.rebase import rebased
from projectors.document.sync.since import TooMuch, changesets_since, columns_now, reshaped_since, tables_of
from projectors.partitions import Partitions
from schemas.document import PushChanges
from schemas.ids import Position
from schemas.problems import CONFLICT, Refusal
from schemas.sync import PushBody, PushReply

BODY_BYTES_MAX = 32 << 20
OPEN_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class SyncApi:
    """The handler, with what it needs."""

    registry: Registry
    partitions: Partitions
    docs_dir: Path
    history: History
    ack_timeout_s: float

    def routes(self) -> Sequence[Route]:
        """Return the route table."""
        return (
            Route(
                "POST",
                "/api/v1/db/{db_id}/sync/push",
                "query.write",
                self.push,
                body=PushBody,
                body_bytes_max=BODY_BYTES_MAX,
                resource="/sync/push",
                inputs=(IF_FENCE, KEY),
                replies={200: PushReply, 409: "rows that do not fit, listed in `conflicts`; nothing was changed"},
                summary="Take over changes that were made in a copy, all or none",
            ),
        )

    async def push(self, request: Request[PushBody]) -> Reply:
        """Take over a changeset; the same one again gets the first answer."""
        self.registry.require(request.db_id, for_writing=True)
        body, partition = request.body, document_partition(request.db_id)
        base, resting_on = Position.parse(body.base), fences(request)
        with given_up_when_client_leaves(request):
            columns = await self._columns(request.db_id, base, body.changeset)
            command = PushChanges(
                base=body.base,
                changeset=body.changeset,
                policy=body.policy,
                rebase=body.rebase,
                columns=columns,
                fences=resting_on,
            )
            answer = await self.partitions.submit(
                partition,
                command,
                principal=request.caller.name,
                command_id=command_id(request) or _repeated_as(request),
                timeout_s=self.ack_timeout_s,
            )
        reply = PushReply(**answer.value)
        if body.rebase:
            reply = await self._with_rebased(reply, request.db_id, base, answer.position, body.changeset)
        return Reply(200, reply, {POSITION_HEADER: str(answer.position)})

    async def _columns(self, db_id: str, base: Position, changeset: bytes) -> dict[str, tuple[str, ...]]:
        """Return what the tables of a changeset look like; for those that changed since `base`, what never fits."""
        partition = document_partition(db_id)
        names = await asyncio.to_thread(tables_of, changeset)
        await self.partitions[partition].ready(OPEN_WAIT_S)
        columns, position = await asyncio.to_thread(columns_now, document_path(self.docs_dir, db_id), names)
        if base > position:
            why = f"base {base} is not in this history, which stands at {position}"
            raise Refusal(CONFLICT.problem(why, fix="Take a new copy of the document.", field="base"))
        with refusals(partition):
            reshaped = await reshaped_since(self.history, partition, base, position, names)
        return columns | dict.fromkeys(reshaped, ())

    async def _with_rebased(
        self, reply: PushReply, db_id: str, base: Position, position: Position, own: bytes
    ) -> PushReply:
        partition = document_partition(db_id)
        try:
            with refusals(partition):
                happened = await changesets_since(self.history, partition, base, position)
        except TooMuch as error:
            return reply.model_copy(update={"rebase_refused": f"{error}; take a new copy of the document"})
        return reply.model_copy(update={"rebased": await asyncio.to_thread(rebased, own, happened)})


def _repeated_as(request: Request[PushBody]) -> str:
    """Return the id of a push whose caller gave none: pushing the same changes to the same base is repeating it."""
    body = request.body
    said: tuple[Any, ...] = (request.caller.name, request.path, body.base, body.policy, body.rebase, *fences(request))
    digest = blake3("\0".join(map(str, said)).encode() + b"\0")
    return digest.update(body.changeset).hexdigest(16)
