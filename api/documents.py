"""The routes of the registry: make, find, rename, archive and delete documents."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from api.auth import Access, Principal
from api.control_command import submit
from api.fences import check_fences
from api.inputs import IF_FENCE, KEY, MIN_POSITION, choice, number, text
from api.parameters import query_number
from api.positions import POSITION_HEADER, await_position, command_id
from api.routes import Handler, Reply, Request, Route
from projectors.control import queries
from projectors.control.commands import describe
from projectors.control.domain import PARTITION
from projectors.control.queries import STATES, DocumentRow, Visible
from projectors.control.registry import Registry, unknown
from projectors.document.domain import document_partition
from projectors.partitions import Partitions
from projectors.readers import Readers
from schemas.control import ArchiveDocument, CreateDocument, DeleteDocument, RenameDocument
from schemas.facts import Command
from schemas.instants import now
from schemas.problems import FORBIDDEN, INVALID_PARAMETER, Refusal
from schemas.registry import CreateRequest, DocumentsReply, DocumentView, OpenedReply, RenameRequest, StatusReply
from schemas.scopes import ACTIONS, covers_db

CREATE, MANAGE, READ = "db.create", "db.manage", "query.read"
PAGE, PAGE_MAX = 100, 1000
SEARCH_LENGTH_MAX = 200
OPEN_WAIT_S = 30.0
LIST_INPUTS = (
    choice("state", "Which ones.", STATES, "present"),
    text("q", "Only those whose name for people or id has this in it.", maxLength=SEARCH_LENGTH_MAX),
    text("after", "Only those after this id: `next` of the page before."),
    number("limit", "How many a page has at most.", 1, PAGE_MAX, PAGE),
    MIN_POSITION,
)
CreateRule = Literal["scope", "open"]


@dataclass(frozen=True, slots=True)
class DocumentsApi:
    """The handlers, with what they need; `readers` are of `control.db`.

    `create_rule` says who may make a document: those with `db.create` on its name (`scope`), or all who may do
    something on it (`open`).
    """

    partitions: Partitions
    readers: Readers
    registry: Registry
    access: Access
    create_rule: CreateRule = "scope"
    check_unused: Callable[[str], Awaitable[None]] | None = None
    """Refuses a name under which something lies that was never finished."""

    def routes(self) -> Sequence[Route]:
        """Return the route table."""
        one, shown = "/api/v1/db/{db_id}", {200: DocumentView}
        changing = partial(_changing, replies=shown)
        makers = (CREATE,) if self.create_rule == "scope" else ACTIONS
        return (
            Route(
                "POST",
                "/api/v1/db",
                makers,
                self.create,
                body=CreateRequest,
                anywhere=True,
                inputs=(KEY,),
                replies={201: DocumentView, 200: DocumentView},
                summary="Make a document; 200 if it is the caller's already",
            ),
            Route(
                "GET",
                "/api/v1/db",
                ACTIONS,
                self.list,
                anywhere=True,
                inputs=LIST_INPUTS,
                replies={200: DocumentsReply},
                summary="The documents that the caller may do something on",
            ),
            Route("GET", one, ACTIONS, self.show, replies=shown, summary="One document, also an archived one"),
            changing("PATCH", one, self.rename, body=RenameRequest, summary="Rename it for people"),
            changing("DELETE", one, self.delete, replies={204: "deleted"}, summary="Delete it; undelete mends"),
            changing("POST", f"{one}/undelete", self.undelete, summary="Bring it back"),
            changing("POST", f"{one}/archive", self.archive, summary="Let it take no writes"),
            changing("POST", f"{one}/unarchive", self.unarchive, summary="Let it take writes"),
            Route(
                "POST",
                f"{one}/_open",
                READ,
                self.open,
                resource="/runtime/open",
                inputs=(IF_FENCE,),
                replies={200: OpenedReply},
                summary="Open it on this node, and make it if the caller may",
            ),
            Route(
                "GET",
                f"{one}/_status",
                READ,
                self.status,
                resource="/runtime/status",
                replies={200: StatusReply},
                summary="How it does on this node",
            ),
        )

    async def create(self, request: Request[CreateRequest]) -> Reply:
        """Make a document that belongs to the caller."""
        db_id = request.body.db_id
        if not self.may_create(request.caller, db_id):
            raise Refusal(FORBIDDEN.problem(f"to make {db_id} needs the scope {CREATE} on it", field="db_id"))
        if self.check_unused is not None and self.registry.find(db_id) is None:
            await self.check_unused(db_id)
        command = CreateDocument(db_id=db_id, name=request.body.name, by=request.caller.name)
        answer = await submit(self.partitions, request, command, command_id(request))
        status = 201 if answer.value["created"] else 200
        headers = {POSITION_HEADER: str(answer.position), "location": f"/api/v1/db/{db_id}"}
        return Reply(status, answer.value["document"], headers)

    def may_create(self, principal: Principal, db_id: str) -> bool:
        """Say whether somebody may make a document of this name."""
        if (
            self.create_rule == "open"
            and not principal.url
            and any(covers_db(scope.db_id, db_id) for scope in principal.scopes)
        ):
            return True
        return self.access.allows(principal, CREATE, db_id)

    async def list(self, request: Request[None]) -> Reply:
        """Return a page of documents."""
        state = request.query.get("state", "present")
        if state not in STATES:
            raise Refusal(INVALID_PARAMETER.problem(f"state is one of {', '.join(STATES)}", field="state"))
        search, after = request.query.get("q", ""), request.query.get("after", "")
        if len(search) > SEARCH_LENGTH_MAX:
            raise Refusal(INVALID_PARAMETER.problem(f"q has at most {SEARCH_LENGTH_MAX} characters", field="q"))
        limit = query_number(request, "limit", PAGE, 1, PAGE_MAX)
        visible = _visible(request.caller)
        await await_position(request, self.partitions[PARTITION])
        rows = await self.readers.read(
            lambda db: queries.documents(db, visible, state=state, search=search, after=after, limit=limit)
        )
        following = rows[-1].db_id if len(rows) == limit else None
        return Reply(200, DocumentsReply(documents=[_view(row) for row in rows], next=following))

    async def show(self, request: Request[None]) -> Reply:
        """Return one document."""
        return Reply(200, _view(self.registry.require(request.db_id)))

    async def rename(self, request: Request[RenameRequest]) -> Reply:
        """Change the name for people."""
        return await self._change(request, RenameDocument(db_id=request.db_id, name=request.body.name))

    async def archive(self, request: Request[None]) -> Reply:
        """Let it take no writes."""
        return await self._change(request, ArchiveDocument(db_id=request.db_id))

    async def unarchive(self, request: Request[None]) -> Reply:
        """Let it take writes."""
        return await self._change(request, ArchiveDocument(db_id=request.db_id, archived=False))

    async def delete(self, request: Request[None]) -> Reply:
        """Take it away from everybody."""
        reply = await self._change(request, DeleteDocument(db_id=request.db_id))
        return Reply(204, None, reply.headers)

    async def undelete(self, request: Request[None]) -> Reply:
        """Bring it back."""
        return await self._change(request, DeleteDocument(db_id=request.db_id, deleted=False))

    async def open(self, request: Request[None]) -> Reply:
        """Open it, so that the next request need not; make it first if there is none and the caller may."""
        db_id, principal = request.db_id, request.caller
        await check_fences(request, self.partitions, self.registry)
        if self.registry.find(db_id) is None:
            if not self.may_create(principal, db_id):
                raise unknown(db_id)
            if self.check_unused is not None:
                await self.check_unused(db_id)
            await submit(self.partitions, request, CreateDocument(db_id=db_id, by=principal.name))
        self.registry.require(db_id)
        partition = self.partitions[document_partition(db_id)]
        await partition.ready(OPEN_WAIT_S)
        headers = {POSITION_HEADER: str(partition.position)} if partition.position else {}
        return Reply(200, OpenedReply(db_id=db_id, opened=True, runtime="active"), headers)

    async def status(self, request: Request[None]) -> Reply:
        """Tell how it does here, without opening it."""
        row = self.registry.require(request.db_id)
        wanted = document_partition(row.db_id)
        partition = next((one for one in self.partitions.opened() if one.id == wanted), None)
        stopped = partition is not None and partition.stopped_because is not None
        reply = StatusReply(
            db_id=row.db_id,
            healthy=not stopped,
            state=row.state,
            runtime="stopped" if stopped else "active" if partition else "idle",
            position=str(partition.position) if partition and partition.position else None,
            waiting=partition.waiting if partition else 0,
            timestamp=now(),
        )
        return Reply(200, reply)

    async def _change(self, request: Request[Any], command: Command) -> Reply:
        await check_fences(request, self.partitions, self.registry)
        answer = await submit(self.partitions, request, command, command_id(request))
        return Reply(200, answer.value, {POSITION_HEADER: str(answer.position)})


def _changing(method: str, path: str, handler: Handler, **more: Any) -> Route:
    return Route(method, path, MANAGE, handler, inputs=(IF_FENCE, KEY), **more)


def _visible(principal: Principal) -> Visible:
    return Visible(principal.is_admin, principal.name, tuple({scope.db_id: None for scope in principal.scopes}))


def _view(row: DocumentRow) -> DocumentView:
    return DocumentView(**describe(row))
