"""The one adapter between HTTP and the handlers: names, finds, authorises, reads, calls, encodes."""

import asyncio
import logging
import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import structlog
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from api import metrics
from api.answer import Answer, cancel_all
from api.auth import NEVER_END, Authoriser, Principal
from api.body import read_body
from api.challenges import CHALLENGE
from api.fences import FENCE_HEADER, refuse_fences
from api.gate import Gate, Shown
from api.headers import Headers
from api.inputs import IF_FENCE
from api.leaving import Departure
from api.origins import Origins
from api.positions import MIN_POSITION_HEADER
from api.problems import ClientGone, body_too_large
from api.request_ids import new_request_id
from api.route_table import Found, RouteTable
from api.routes import AnyReply, Reply, Request, Route, StreamReply, UpgradeReply
from schemas.problems import (
    INTERNAL,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    UNAUTHENTICATED,
    Refusal,
)

KNOWN_QUERIES = 1024
KNOWN_QUERY_LENGTH_MAX = 128
REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_NO_QUERY = QueryParams()
_log = structlog.get_logger(__name__)
_level = logging.getLogger(__name__)  # says at once that nobody wants to know


class Api:
    """The ASGI application over a route table."""

    def __init__(
        self,
        routes: Sequence[Route],
        authoriser: Authoriser,
        gate: Gate | None = None,
        origins: Origins | None = None,
    ) -> None:
        """Raise `InvalidRoute` if two routes claim the same method and path."""
        self._table = RouteTable(routes)
        self._authoriser = authoriser
        self._gate = gate or Gate(authoriser)
        self._origins = origins or Origins()

    def describes(self, path: str) -> bool:
        """Say whether some route takes `path`, whatever the method."""
        return self._table.find(path) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served here, not {scope['type']}")
        started_s = time.perf_counter()
        headers = Headers(scope["headers"])
        request_id = _request_id(headers.get(REQUEST_ID_HEADER))
        scope.setdefault("state", {})["request_id"] = request_id
        answer = Answer(send, request_id, self._origins.shared(headers))
        found = self._table.find(scope["path"])
        template = found[0].template if found else metrics.UNMATCHED
        structlog.contextvars.bind_contextvars(request_id=request_id)
        metrics.begun()
        try:
            await self._answer(scope, receive, headers, found, answer)
        except Refusal as refusal:
            if answer.status is not None:
                raise
            await answer.problem(refusal.problem, refusal.headers)
        except ClientGone:
            pass  # nobody is left to answer
        except Exception:
            _log.exception("request failed", method=scope["method"], route=template)
            if answer.status is not None:
                raise  # the answer has begun: the connection must be cut, not completed
            await answer.problem(INTERNAL.problem("the request failed inside the node"))
        finally:
            seconds = time.perf_counter() - started_s
            metrics.observe(scope["method"], template, answer.status, seconds)
            if _level.isEnabledFor(logging.DEBUG):
                _log.debug(
                    "request",
                    method=scope["method"],
                    route=template,
                    status=answer.status,
                    seconds=seconds,
                    principal=answer.principal,
                )

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        headers: Headers,
        found: Found | None,
        answer: Answer,
    ) -> None:
        if found is None:
            raise Refusal(NOT_FOUND.problem(f"there is no {scope['path'][:200]!r}"))
        methods, params = found
        answer.plain = methods.plain
        if scope["method"] == "OPTIONS" and (told := self._origins.preflight(headers, methods.allow())) is not None:
            await answer.reply(Reply(204, None, told))
            return
        route = methods.find(scope["method"])
        if route is None:
            detail = f"{methods.template} does not take {scope['method']}"
            raise Refusal(METHOD_NOT_ALLOWED.problem(detail), {"allow": methods.allow()})
        request = await self._admit(route, params, scope, receive, headers, answer)
        reply = await self._handle(route, request)
        if isinstance(reply, Reply):
            await answer.reply(reply)
        elif isinstance(reply, UpgradeReply):
            await answer.upgrade(reply, request.tunnel, self._ended(request.principal))
        else:
            await answer.stream(reply, receive, request.stopping, self._ended(request.principal))

    async def _admit(
        self,
        route: Route,
        params: Mapping[str, str],
        scope: Scope,
        receive: Receive,
        headers: Headers,
        answer: Answer,
    ) -> Request[Any]:
        """Return what the handler gets, its body read; whoever may not ask is refused before that."""
        query = _parsed(raw_query) if (raw_query := scope["query_string"]) else _NO_QUERY
        peer = client[0] if (client := scope.get("client")) else None
        admission = self._gate.admit(route, params, Shown(headers, query, peer))
        if admission.headers:
            answer.headers = {**answer.headers, **admission.headers}
        answer.principal = admission.principal.name if admission.principal else None
        _refuse_announced_size(route, headers)
        if FENCE_HEADER in headers and IF_FENCE not in route.inputs:
            refuse_fences(headers, f"{route.name} looks at no leases")
        body = None
        if route.body is not None:
            body = await read_body(route.body, headers, receive, route.body_bytes_max)
        state = scope["state"]
        return Request(
            method=scope["method"],
            path=scope["path"],
            params=params,
            query=query,
            headers=headers,
            body=body,
            principal=admission.principal,
            id=answer.request_id,
            stopping=state.get("stopping") or asyncio.Event(),
            body_bytes_max=route.body_bytes_max,
            _receive=receive,
            departure=state.get("departure") or Departure(),
            db_id=admission.db_id,
            resource=admission.resource,
            tunnel=state.get("tunnel"),
            peer=peer,
            _target=(scope.get("raw_path", b"/"), raw_query),
            _authoriser=self._authoriser,
            _proxies=self._gate.proxies,
        )

    async def _handle(self, route: Route, request: Request[Any]) -> AnyReply:
        """Call the handler; one that may wait for long is given up when its caller's token ends."""
        # No change, unless the handler undoes it: nobody could tell any more whether it was made.
        waits = route.waits or (request.method in ("GET", "HEAD") and MIN_POSITION_HEADER in request.headers)
        if not waits or request.principal is None or request.principal.name in NEVER_END:
            return await route.handler(request)
        handling = asyncio.ensure_future(route.handler(request))
        ended = asyncio.ensure_future(self._ended(request.principal))
        try:
            try:
                await asyncio.wait((handling, ended), return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancel_all([ended] if handling.done() else [ended, handling])
        except BaseException:
            await _drop(handling)
            raise
        if handling.cancelled():
            raise Refusal(UNAUTHENTICATED.problem("the token ended while the request waited"), CHALLENGE)
        return handling.result()

    async def _ended(self, principal: Principal | None) -> None:
        if principal is None:
            await asyncio.get_running_loop().create_future()
        else:
            await self._authoriser.ended(principal)


async def _drop(handling: asyncio.Future[AnyReply]) -> None:
    """Let go of an answer that nobody will send any more."""
    if handling.done() and not handling.cancelled() and handling.exception() is None:
        reply = handling.result()
        if isinstance(reply, Reply | StreamReply):
            await reply.over(complete=False)


def _parsed(query: bytes) -> QueryParams:
    """Return the parameters of a query; those of short ones are kept, since callers repeat themselves."""
    return _parse_known(query) if len(query) <= KNOWN_QUERY_LENGTH_MAX and b"token" not in query else QueryParams(query)


@lru_cache(KNOWN_QUERIES)
def _parse_known(query: bytes) -> QueryParams:
    return QueryParams(query)


def _request_id(given: str | None) -> str:
    return given if given and _REQUEST_ID.fullmatch(given) else new_request_id()


def _refuse_announced_size(route: Route, headers: Headers) -> None:
    """Refuse before a byte of the body is read; routes that take no body do not care."""
    takes_body = route.streaming or route.body is not None
    if takes_body and int(headers.get("content-length", "0")) > route.body_bytes_max:
        raise Refusal(body_too_large(route.body_bytes_max))
