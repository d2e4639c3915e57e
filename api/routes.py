"""How a route is declared, and the values that its handler takes and gives."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.types import Receive

from api.auth import Authoriser, Principal
from api.body import part
from api.challenges import forbidden, place
from api.client_address import Proxies
from api.headers import Headers
from api.inputs import Input
from api.leaving import Departure
from api.tunnel import Tunnel
from schemas.problems import Problem
from schemas.scopes import ACTIONS, ANY_DB

PUBLIC = "public"
"""The scope of the routes that need no token."""
PUBLIC_PATHS = frozenset({"/healthz", "/readyz", "/static/patchwork.sh"})
ANY_METHOD = "*"
BODY_BYTES_MAX = 1 << 20
DB_PARAMETER = "db_id"
TOKEN_PARAMETER = "token"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_NO_PROXIES = Proxies()
_NO_HEADERS: Mapping[str, str] = {}

B_co = TypeVar("B_co", covariant=True)


class InvalidRoute(ValueError):
    """A route is declared in a way that must not start."""


@dataclass(slots=True, eq=False)  # not frozen: with so many fields that costs each request a microsecond
class Request(Generic[B_co]):
    """One authorised request; `body` is the validated model of the route, None if it declares none.

    `db_id` is the valid name of the document that it is about, `*` if its route names none; `resource` is what its
    caller was authorised for there. There is a `tunnel` if the client would go on with WebSocket frames.
    """

    method: str
    path: str
    params: Mapping[str, str]
    query: QueryParams
    headers: Headers
    body: B_co
    principal: Principal | None
    id: str
    stopping: asyncio.Event
    body_bytes_max: int
    _receive: Receive = field(repr=False)
    departure: Departure = field(repr=False)
    db_id: str = ANY_DB
    resource: str = ""
    tunnel: Tunnel | None = None
    peer: str | None = None
    _target: tuple[bytes, bytes] = field(default=(b"/", b""), repr=False)
    _authoriser: Authoriser | None = field(default=None, repr=False)
    _proxies: Proxies = field(default=_NO_PROXIES, repr=False)

    @property
    def caller(self) -> Principal:
        """Whoever asks; only on routes that are not public."""
        assert self.principal is not None
        return self.principal

    @property
    def target(self) -> str:
        """Path and query as they were sent. The query may hold secrets."""
        path, query = self._target
        return (path + b"?" + query if query else path).decode("latin-1")

    @property
    def client_address(self) -> str:
        """Where it came from: the peer of its connection, or whoever a trusted proxy names."""
        return self._proxies.client(self.peer, self.headers)

    def allows(self, action: str, resource: str | None = None) -> bool:
        """Say whether the caller may also do `action` here, at `resource` (default: the one of the route)."""
        if self.principal is None or self._authoriser is None:
            return False
        return self._authoriser.allows(
            self.principal, action, self.db_id, self.resource if resource is None else resource
        )

    def require(self, action: str, resource: str) -> None:
        """Refuse (403) a caller who may not do `action` on `resource`, on a route that lets those below in."""
        if not self.allows(action, resource):
            raise forbidden(f"{self.method} {self.path}", [action], place(self.db_id, resource))

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the raw body as it arrives; nothing is read ahead of the consumer but a small buffer.

        Raises `Refusal` (413) past the route's `body_bytes_max`, `ClientGone` if the body breaks off.
        """
        total_bytes = 0
        more = True
        while more:
            message = await self._receive()
            more = message.get("more_body", False)
            if chunk := part(message, total_bytes, self.body_bytes_max):
                total_bytes += len(chunk)
                yield chunk


HeaderLines: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]
"""The headers of an answer; as pairs, a name may be there several times."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer: a model or mapping becomes JSON, bytes go out as they are.

    A `content_type` that is empty is not sent; one among the headers is sent instead. `answered` is called once,
    whatever happens, and told whether all of it is with the transport.
    """

    status: int
    body: BaseModel | Mapping[str, Any] | list[Any] | bytes | None = None
    headers: HeaderLines = field(default_factory=lambda: _NO_HEADERS)
    content_type: str = "application/json"
    answered: Callable[[bool], None] | None = None

    async def over(self, *, complete: bool) -> None:
        """Tell whoever wants to know."""
        if self.answered is not None:
            self.answered(complete)


@dataclass(frozen=True, slots=True)
class StreamReply:
    """An answer in parts; an `endless` one (SSE) ends when the node stops, any other is finished or cut.

    `answered` is called once, whatever happens: with True when all parts are with the transport, with False when they
    will never be, be it that the answer was not even begun. `farewell` encodes the last part of an endless one that its
    caller's token ends: the problem that says so, and the id of the request.
    """

    status: int
    chunks: AsyncIterator[bytes]
    headers: HeaderLines = field(default_factory=lambda: _NO_HEADERS)
    content_type: str = "application/octet-stream"
    endless: bool = False
    answered: Callable[[bool], None] | None = None
    farewell: Callable[[Problem, str], bytes] | None = None

    async def over(self, *, complete: bool) -> None:
        """Tell whoever wants to know, and close the source of the parts."""
        if self.answered is not None:
            self.answered(complete)
        if (aclose := getattr(self.chunks, "aclose", None)) is not None:
            await aclose()


@dataclass(frozen=True, slots=True)
class UpgradeReply:
    """An answer 101: `serve` then speaks through the tunnel of the request, until it ends or is cancelled.

    It gets what is done when the token of the caller ends.
    """

    headers: Mapping[str, str]
    serve: Callable[["asyncio.Future[None]"], Awaitable[None]]


AnyReply: TypeAlias = Reply | StreamReply | UpgradeReply
Handler: TypeAlias = Callable[[Request[Any]], Awaitable[AnyReply]]


@dataclass(frozen=True, slots=True)
class Route:
    """One line of a route table; a route without a scope does not start.

    `path` may hold `{name}` for one segment and `{name:path}` for the rest; `method` `*` takes any method.
    `scope` is the action that a caller needs, or several of which one suffices; the document is the parameter
    `db_id` of the path, else `document` (a template over the parameters), else all of them (`*`), and `resource` (a
    template too) what is asked for in it. A route that is `anywhere` takes those who may do it on some document, and
    decides by itself what they see; one that is `below` takes those who may do it on some resource of the document,
    and asks `request.allows` or `require` when it knows which. One with a `url_token` takes a token of that kind as
    `?token=` too, one that is `anonymous` takes callers without any on the documents where the node allows that. One
    that `waits` may take long to answer: it is cut short when its caller's token ends. With `plain_errors` it refuses
    in one line of text rather than with a problem in JSON.
    `replies` says what comes back: per status a model, or a sentence; `media` adds the media types that are neither
    the JSON of a model nor a problem. `inputs` are the parameters and headers that the handler reads.
    """

    method: str
    path: str
    scope: str | tuple[str, ...]
    handler: Handler
    body: type[BaseModel] | None = None
    streaming: bool = False
    replies: Mapping[int, type[BaseModel] | str] = field(default_factory=dict)
    summary: str = ""
    body_bytes_max: int = BODY_BYTES_MAX
    resource: str = ""
    anywhere: bool = False
    below: bool = False
    document: str = ""
    url_token: bool = False
    anonymous: bool = False
    plain_errors: bool = False
    waits: bool = False
    inputs: tuple[Input, ...] = ()
    media: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    actions: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        scopes = (self.scope,) if isinstance(self.scope, str) else tuple(self.scope or ())
        object.__setattr__(self, "actions", tuple(scope for scope in scopes if scope.strip()))
        if not self.path.startswith("/") or self.method != self.method.upper():
            raise InvalidRoute(f"{self.name}: a path begins with / and a method is in capitals")
        self._check_actions()
        self._check_place()
        if self.streaming and self.body is not None:
            raise InvalidRoute(f"{self.name} cannot both stream its body and validate it")
        if not self.media.keys() <= self.replies.keys():
            raise InvalidRoute(f"{self.name}: a media type is declared for a status that is not")

    def _check_actions(self) -> None:
        if not self.actions:
            raise InvalidRoute(f"{self.name} declares no scope: say which one its callers need")
        if PUBLIC in self.actions:
            if self.scope != PUBLIC or self.path not in PUBLIC_PATHS:
                raise InvalidRoute(f"{self.name} may not be public: only {', '.join(sorted(PUBLIC_PATHS))} are")
        elif unknown := [action for action in self.actions if action not in ACTIONS]:
            raise InvalidRoute(f"{self.name} needs {unknown[0]!r}, which is not an action: see schemas/scopes.py")

    def _check_place(self) -> None:
        parameters = set(_PARAMETER.findall(self.path))
        if self.document and DB_PARAMETER in parameters:
            raise InvalidRoute(f"{self.name} names its document twice")
        if self.anywhere and self.of_one_document:
            raise InvalidRoute(f"{self.name} is about one document: it cannot take those who may do it anywhere")
        if self.below and (not self.of_one_document or self.resource or self.anywhere):
            raise InvalidRoute(f"{self.name}: what lies below is of one document, and no resource of the route")
        for template in (self.resource, self.document):
            if not set(_PARAMETER.findall(template)) <= parameters:
                raise InvalidRoute(f"{self.name}: {template!r} names a parameter that the path has not")

    @property
    def name(self) -> str:
        """Method and path."""
        return f"{self.method} {self.path}"

    @property
    def of_one_document(self) -> bool:
        """Whether it is about one document."""
        return bool(self.document) or DB_PARAMETER in _PARAMETER.findall(self.path)

    @property
    def public(self) -> bool:
        """Whether it needs no token."""
        return self.scope == PUBLIC
