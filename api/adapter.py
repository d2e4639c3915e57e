"""The one adapter between HTTP and the handlers: names, finds, authorises, reads, calls, encodes."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

import structlog
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.datastructures import Headers, QueryParams
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send
from ulid import ULID

from api import metrics
from api.auth import Principal
from api.problems import ClientGone, encode_problem, invalid_body
from api.routes import ANY_METHOD, PUBLIC, InvalidRoute, Reply, Request, Route, StreamReply, body_too_large
from schemas.problems import (
    FORBIDDEN,
    INTERNAL,
    INVALID_BODY,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    UNAUTHENTICATED,
    UNSUPPORTED_MEDIA_TYPE,
    Problem,
    Refusal,
)

REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# `curl -d` says it sends a form, and many clients say nothing better than octet-stream: both mean JSON here
_JSON_TYPES = frozenset(
    {
        "",
        "application/json",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "text/plain",
        "text/json",
    }
)
_log = structlog.get_logger(__name__)


class Authoriser(Protocol):
    """What the adapter needs to know about tokens and scopes."""

    def authenticate(self, authorization: str | None) -> Principal | None: ...
    def allows(self, principal: Principal, scope: str) -> bool: ...


class _Methods:
    """The routes of one path, by method."""

    def __init__(self, template: str) -> None:
        self.template = template
        self.by_method: dict[str, Route] = {}
        self.pattern, _, self.convertors = compile_path(template)

    def find(self, method: str) -> Route | None:
        wanted = "GET" if method == "HEAD" and "HEAD" not in self.by_method else method
        return self.by_method.get(wanted) or self.by_method.get(ANY_METHOD)

    def allow(self) -> str:
        methods = set(self.by_method) | ({"HEAD"} if "GET" in self.by_method else set())
        return ", ".join(sorted(methods))


class _Table:
    """All routes, found by path: fixed paths by lookup, templates in the order of their declaration."""

    def __init__(self, routes: Sequence[Route]) -> None:
        by_template: dict[str, _Methods] = {}
        for route in routes:
            methods = by_template.setdefault(route.path, _Methods(route.path))
            if route.method in methods.by_method:
                raise InvalidRoute(f"{route.method} {route.path} is declared twice")
            methods.by_method[route.method] = route
        self._fixed = {path: methods for path, methods in by_template.items() if not methods.convertors}
        self._templates = [methods for methods in by_template.values() if methods.convertors]

    def find(self, path: str) -> tuple[_Methods, Mapping[str, str]] | None:
        if methods := self._fixed.get(path):
            return methods, {}
        for methods in self._templates:
            if match := methods.pattern.match(path):
                return methods, match.groupdict()
        return None


class Api:
    """The ASGI application over a route table."""

    def __init__(self, routes: Sequence[Route], authoriser: Authoriser) -> None:
        """Raise `InvalidRoute` if two routes claim the same method and path."""
        self._table = _Table(routes)
        self._authoriser = authoriser

    def describes(self, path: str) -> bool:
        """Say whether some route takes `path`, whatever the method."""
        return self._table.find(path) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served here, not {scope['type']}")
        started_s = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get(REQUEST_ID_HEADER))
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, request_id)
        found = self._table.find(scope["path"])
        template = found[0].template if found else metrics.UNMATCHED
        structlog.contextvars.bind_contextvars(request_id=request_id)
        metrics.IN_FLIGHT.inc()
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
            metrics.IN_FLIGHT.dec()
            seconds = time.perf_counter() - started_s
            metrics.observe(scope["method"], template, answer.status, seconds)
            _log.debug("request", method=scope["method"], route=template, status=answer.status, seconds=seconds)

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        headers: Headers,
        found: tuple[_Methods, Mapping[str, str]] | None,
        answer: "_Answer",
    ) -> None:
        if found is None:
            raise Refusal(NOT_FOUND.problem(f"there is no {scope['path'][:200]!r}"))
        methods, params = found
        route = methods.find(scope["method"])
        if route is None:
            detail = f"{methods.template} does not take {scope['method']}"
            raise Refusal(METHOD_NOT_ALLOWED.problem(detail), {"allow": methods.allow()})
        principal = self._authorise(route, headers.get("authorization"))
        _refuse_announced_size(route, headers)
        request: Request[Any] = Request(
            method=scope["method"],
            path=scope["path"],
            params=params,
            query=QueryParams(scope["query_string"]),
            headers=headers,
            body=None,
            principal=principal,
            id=answer.request_id,
            stopping=scope["state"].get("stopping") or asyncio.Event(),
            body_bytes_max=route.body_bytes_max,
            _receive=receive,
        )
        if route.body is not None:
            request = await _with_body(request, route.body)
        reply = await route.handler(request)
        if isinstance(reply, Reply):
            await answer.reply(reply)
        else:
            await answer.stream(reply, receive, request.stopping)

    def _authorise(self, route: Route, authorization: str | None) -> Principal | None:
        if route.scope == PUBLIC:
            return None
        principal = self._authoriser.authenticate(authorization)
        if principal is None:
            why = "the token is not known" if authorization else "there is no Authorization header"
            challenge = 'Bearer realm="forge", error="invalid_token"' if authorization else 'Bearer realm="forge"'
            raise Refusal(UNAUTHENTICATED.problem(why), {"www-authenticate": challenge})
        if not self._authoriser.allows(principal, route.scope):
            detail = f"{route.method} {route.path} needs the scope {route.scope}"
            challenge = f'Bearer realm="forge", error="insufficient_scope", scope="{route.scope}"'
            raise Refusal(FORBIDDEN.problem(detail), {"www-authenticate": challenge})
        return principal


class _Answer:
    """The answer to one request, and its status once it has begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.request_id = request_id
        self.status: int | None = None
        self._send = send

    async def problem(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        body, own = encode_problem(problem, self.request_id)
        await self._whole(problem.status, body, {**own, **(headers or {})})

    async def reply(self, reply: Reply) -> None:
        match reply.body:
            case None:
                body, headers = b"", dict(reply.headers)
            case bytes() as body:
                headers = {"content-type": reply.content_type, **reply.headers}
            case value:
                body = to_json(value)
                headers = {"content-type": reply.content_type, **reply.headers}
        await self._whole(reply.status, body, headers)

    async def stream(self, reply: StreamReply, receive: Receive, stopping: asyncio.Event) -> None:
        """Send the parts until they end, the client leaves, or, if the reply is endless, the node stops."""
        try:
            await self._start(reply.status, {"content-type": reply.content_type, **reply.headers})
            await self._send({"type": "http.response.body", "body": b"", "more_body": True})
            sending = asyncio.ensure_future(self._send_all(reply.chunks))
            watching = [sending, asyncio.ensure_future(_disconnected(receive))]
            if reply.endless:
                watching.append(asyncio.ensure_future(_is_set(stopping)))
            try:
                await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _cancel_all(watching)
            if not sending.cancelled() and (error := sending.exception()):
                raise error
        finally:
            if (aclose := getattr(reply.chunks, "aclose", None)) is not None:
                await aclose()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            if chunk:
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        await self._start(status, {**headers, "content-length": str(len(body))})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        raw.append((b"x-request-id", self.request_id.encode()))
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": raw})


def _request_id(given: str | None) -> str:
    return given if given and _REQUEST_ID.fullmatch(given) else str(ULID())


def _refuse_announced_size(route: Route, headers: Headers) -> None:
    """Refuse before a byte of the body is read; routes that take no body do not care."""
    takes_body = route.streaming or route.body is not None
    if takes_body and int(headers.get("content-length", "0")) > route.body_bytes_max:
        raise Refusal(body_too_large(route.body_bytes_max))


async def _with_body(request: Request[Any], model: type[BaseModel]) -> Request[Any]:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (content_type in _JSON_TYPES or content_type.endswith("+json")):
        raise Refusal(UNSUPPORTED_MEDIA_TYPE.problem(f"the body is said to be {content_type[:100]!r}"))
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Refusal(UNSUPPORTED_MEDIA_TYPE.problem(f"the body is encoded as {coding[:100]!r}"))
    raw = b"".join([chunk async for chunk in request.stream()])
    if not raw.strip():
        raise Refusal(INVALID_BODY.problem("the body is empty, a JSON object is needed"))
    try:
        body = model.model_validate_json(raw)
    except ValidationError as error:
        raise Refusal(invalid_body(error)) from None
    return Request(**{name: getattr(request, name) for name in Request.__slots__} | {"body": body})


async def _disconnected(receive: Receive) -> None:
    message: MutableMapping[str, Any] = {}
    while message.get("type") != "http.disconnect":
        message = await receive()


async def _is_set(event: asyncio.Event) -> None:
    await event.wait()


async def _cancel_all(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
