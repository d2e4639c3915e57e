"""The routes of leases: acquire, renew, release, and who holds what."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from api.fences import fences
from api.inputs import IF_FENCE, KEY, MIN_POSITION, flag_input, number, text
from api.lease_waiting import LeaseLines
from api.leaving import given_up_when_client_leaves
from api.parameters import query_number
from api.places import flag
from api.positions import POSITION_HEADER, await_position, command_id
from api.repeated_secrets import RepeatedSecrets
from api.routes import Reply, Request, Route
from projectors.control.registry import Registry
from projectors.document.domain import document_partition
from projectors.document.leases import queries
from projectors.document.leases.queries import NewestRow
from projectors.document.reads.reading import DocumentReaders
from projectors.outcome import Answer
from projectors.partitions import Partitions
from schemas.fences import RESOURCE_LENGTH_MAX
from schemas.instants import now as wall_clock
from schemas.lease_bodies import (
    AcquireReply,
    AcquireRequest,
    GrantView,
    LeaseReply,
    LeasesReply,
    LeaseView,
    ReleaseReply,
    ReleaseRequest,
    RenewReply,
    RenewRequest,
)
from schemas.lease_token import format_lease_token
from schemas.leases import HISTORY_MAX, AcquireLease, ReleaseLease, RenewLease
from schemas.machine_token import hash_token
from schemas.problems import LEASE_TOKEN, NOT_FOUND, Problem, Refusal

ACQUIRE, RENEW, RELEASE, READ = "lease.acquire", "lease.renew", "lease.release", "query.read"
PAGE, PAGE_MAX = 100, 1000
READ_TIMEOUT_S = 5.0
NO_STORE = {"cache-control": "no-store"}
CHALLENGE = {"www-authenticate": 'Lease realm="forge"'}
"""What a 401 about a lease's token says: it is not the caller's own token that is wrong."""
_FENCE_MAX = 2**63 - 1
LIST_INPUTS = (
    flag_input("held", "Only those that somebody holds now."),
    text("after", "Only those after this resource: `next` of the page before.", maxLength=RESOURCE_LENGTH_MAX),
    number("limit", "How many a page has at most.", 1, PAGE_MAX, PAGE),
    MIN_POSITION,
)
HISTORY_INPUTS = (
    number("before", "Only leases with a smaller fence: `next` of the page before.", 1, _FENCE_MAX),
    number("limit", "How many leases a page has at most.", 1, HISTORY_MAX, PAGE),
    MIN_POSITION,
)


@dataclass(frozen=True, slots=True)
class LeasesApi:
    """The handlers, with what they need."""

    registry: Registry
    partitions: Partitions
    readers: DocumentReaders
    lines: LeaseLines
    ack_timeout_s: float
    clock: Callable[[], str] = wall_clock
    secrets: RepeatedSecrets = field(default_factory=RepeatedSecrets, repr=False)
    _giving_back: set[asyncio.Task[None]] = field(default_factory=set, repr=False)

    def routes(self) -> Sequence[Route]:
        """Return the route table."""
        leases = "/api/v1/db/{db_id}/leases"
        return (
            Route(
                "POST",
                f"{leases}/acquire",
                ACQUIRE,
                self.acquire,
                body=AcquireRequest,
                below=True,
                waits=True,
                inputs=(IF_FENCE, KEY),
                replies={200: AcquireReply, 409: Problem},
                summary="Lease a resource, or wait for it",
            ),
            Route(
                "POST",
                f"{leases}/renew",
                RENEW,
                self.renew,
                body=RenewRequest,
                below=True,
                inputs=(IF_FENCE, KEY),
                replies={200: RenewReply},
                summary="Let a lease last longer",
            ),
            Route(
                "POST",
                f"{leases}/release",
                RELEASE,
                self.release,
                body=ReleaseRequest,
                below=True,
                inputs=(IF_FENCE, KEY),
                replies={200: ReleaseReply},
                summary="Give a lease back; again is no mistake",
            ),
            Route(
                "GET",
                leases,
                READ,
                self.list,
                resource="/leases",
                inputs=LIST_INPUTS,
                replies={200: LeasesReply},
                summary="The newest lease of each resource",
            ),
            Route(
                "GET",
                f"{leases}/{{resource:path}}",
                (READ, ACQUIRE, RENEW, RELEASE),
                self.show,
                below=True,
                inputs=HISTORY_INPUTS,
                replies={200: LeaseReply},
                summary="One resource, and its leases",
            ),
        )

    async def acquire(self, request: Request[AcquireRequest]) -> Reply:
        """Grant a lease. Its token is in this answer and nowhere else."""
        body, repeated_as = request.body, command_id(request)
        request.require(ACQUIRE, body.resource)
        token = format_lease_token(self.secrets.of(repeated_as))
        command = AcquireLease(
            resource=body.resource,
            owner=body.owner,
            token_hash=hash_token(token),
            by=request.caller.name,
            ttl_seconds=body.ttl_seconds,
            fences=fences(request),
        )

        async def attempt(behind: int) -> Answer:
            self.registry.require(request.db_id, for_writing=True)  # each time: it may be archived while we wait
            return await self._attempt(request, command.model_copy(update={"behind": behind}), repeated_as)

        with given_up_when_client_leaves(request):
            answer = await self.lines.ask(request.db_id, body.resource, body.wait_seconds, attempt, request.stopping)
        reply = AcquireReply(**answer.value, token=token)
        return Reply(200, reply, {**NO_STORE, POSITION_HEADER: str(answer.position)})

    async def _attempt(self, request: Request[Any], command: AcquireLease, repeated_as: str | None) -> Answer:
        """Ask once. If the caller leaves meanwhile, and cannot ask for the same lease again, it is given back."""
        asking = asyncio.ensure_future(self._submit(request, command))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            if repeated_as is not None:
                asking.cancel()
            else:
                giving_back = asyncio.create_task(self._give_back(request, command, asking), name="give a lease back")
                self._giving_back.add(giving_back)
                giving_back.add_done_callback(self._giving_back.discard)
            raise

    async def _give_back(self, request: Request[Any], command: AcquireLease, asking: asyncio.Future[Answer]) -> None:
        await asyncio.wait([asking])
        if asking.cancelled() or asking.exception() is not None:
            return
        release = ReleaseLease(resource=command.resource, owner=command.owner, token_hash=command.token_hash)
        with suppress(Refusal):  # then it runs out by itself
            await self._submit(request, release)

    async def renew(self, request: Request[RenewRequest]) -> Reply:
        """Let a lease last longer."""
        body = request.body
        request.require(RENEW, body.resource)
        self.registry.require(request.db_id, for_writing=True)
        command = RenewLease(
            resource=body.resource,
            owner=body.owner,
            token_hash=hash_token(body.token),
            ttl_seconds=body.ttl_seconds,
            fences=fences(request),
        )
        answer = await self._submit(request, command)
        return Reply(200, RenewReply(**answer.value, renewed=True), {POSITION_HEADER: str(answer.position)})

    async def release(self, request: Request[ReleaseRequest]) -> Reply:
        """Give a lease back."""
        body = request.body
        request.require(RELEASE, body.resource)
        self.registry.require(request.db_id, for_writing=True)
        token_hash = hash_token(body.token)
        command = ReleaseLease(resource=body.resource, owner=body.owner, token_hash=token_hash, fences=fences(request))
        answer = await self._submit(request, command)
        return Reply(200, ReleaseReply(**answer.value), {POSITION_HEADER: str(answer.position)})

    async def _submit(self, request: Request[Any], command: AcquireLease | RenewLease | ReleaseLease) -> Answer:
        try:
            return await self.partitions.submit(
                document_partition(request.db_id),
                command,
                principal=request.caller.name,
                command_id=command_id(request),
                timeout_s=self.ack_timeout_s,
            )
        except Refusal as refusal:
            if refusal.problem.type == LEASE_TOKEN.uri:
                raise Refusal(refusal.problem, CHALLENGE) from None
            raise

    async def list(self, request: Request[None]) -> Reply:
        """Return a page of the resources that were ever leased."""
        self.registry.require(request.db_id)
        after = request.query.get("after", "")
        limit = query_number(request, "limit", PAGE, 1, PAGE_MAX)
        now = self.clock()
        held_at = now if flag(request, "held", False) else ""
        await await_position(request, self.partitions[document_partition(request.db_id)])
        rows, position = await self.readers.read(
            request.db_id,
            lambda db: queries.newest(db, after=after, limit=limit, held_at=held_at),
            timeout_s=READ_TIMEOUT_S,
        )
        following = rows[-1].resource if len(rows) == limit else None
        reply = LeasesReply(leases=[LeaseView(**_said(row, now)) for row in rows], next=following)
        return Reply(200, reply, {POSITION_HEADER: str(position)})

    async def show(self, request: Request[None]) -> Reply:
        """Return one resource with a page of its leases, to who may read the document or lease the resource."""
        resource = request.params["resource"]
        if not any(request.allows(action, resource) for action in (ACQUIRE, RENEW, RELEASE)):
            request.require(READ, f"/leases/{resource}")
        self.registry.require(request.db_id)
        before = query_number(request, "before", _FENCE_MAX, 1, _FENCE_MAX)
        limit = query_number(request, "limit", PAGE, 1, HISTORY_MAX)
        await await_position(request, self.partitions[document_partition(request.db_id)])
        found, position = await self.readers.read(
            request.db_id,
            lambda db: queries.history(db, resource, before=before, limit=limit),
            timeout_s=READ_TIMEOUT_S,
        )
        if found is None:
            fix = f"`GET /api/v1/db/{request.db_id}/leases` lists what was leased."
            raise Refusal(NOT_FOUND.problem(f"{resource[:RESOURCE_LENGTH_MAX]!r} was never leased", fix=fix))
        newest, grants = found
        following = grants[-1].fence if len(grants) == limit else None
        history = [GrantView(**grant._asdict()) for grant in grants]
        reply = LeaseReply(**_said(newest, self.clock()), history=history, next=following)
        return Reply(200, reply, {POSITION_HEADER: str(position)})


def _said(row: NewestRow, now: str) -> dict[str, Any]:
    return row._asdict() | {"held": now < row.expires_at}
