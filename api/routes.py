"""How a route is declared, and the values that its handler takes and gives."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from pydantic import BaseModel
from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive

from api.auth import Principal
from api.problems import ClientGone
from schemas.problems import BODY_TOO_LARGE, Problem, Refusal

PUBLIC = "public"
"""The scope of the routes that need no token."""
PUBLIC_PATHS = frozenset({"/healthz", "/readyz"})
ANY_METHOD = "*"
BODY_BYTES_MAX = 1 << 20
_NO_HEADERS: Mapping[str, str] = {}

B_co = TypeVar("B_co", covariant=True)


class InvalidRoute(ValueError):
    """A route is declared in a way that must not start."""


@dataclass(frozen=True, slots=True)
class Request(Generic[B_co]):
    """One authorised request; `body` is the validated model of the route, None if it declares none."""

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

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the raw body as it arrives; nothing is read ahead of the consumer but a small buffer.

        Raises `Refusal` (413) past the route's `body_bytes_max`, `ClientGone` if the body breaks off.
        """
        total_bytes = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            more = message.get("more_body", False)
            if chunk := message.get("body", b""):
                total_bytes += len(chunk)
                if total_bytes > self.body_bytes_max:
                    raise Refusal(body_too_large(self.body_bytes_max))
                yield chunk


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer: a model or mapping becomes JSON, bytes go out as they are."""

    status: int
    body: BaseModel | Mapping[str, Any] | list[Any] | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS)
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class StreamReply:
    """An answer in parts; an `endless` one (SSE) ends when the node stops, any other is finished or cut."""

    status: int
    chunks: AsyncIterator[bytes]
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS)
    content_type: str = "application/octet-stream"
    endless: bool = False


Handler: TypeAlias = Callable[[Request[Any]], Awaitable[Reply | StreamReply]]


@dataclass(frozen=True, slots=True)
class Route:
    """One line of a route table; a route without a scope does not start.

    `path` may hold `{name}` for one segment and `{name:path}` for the rest; `method` `*` takes any method.
    `replies` says what comes back: per status a model, or a sentence.
    """

    method: str
    path: str
    scope: str
    handler: Handler
    body: type[BaseModel] | None = None
    streaming: bool = False
    replies: Mapping[int, type[BaseModel] | str] = field(default_factory=dict)
    summary: str = ""
    body_bytes_max: int = BODY_BYTES_MAX

    def __post_init__(self) -> None:
        name = f"{self.method} {self.path}"
        if not self.path.startswith("/") or self.method != self.method.upper():
            raise InvalidRoute(f"{name}: a path begins with / and a method is in capitals")
        if not isinstance(self.scope, str) or not self.scope.strip():
            raise InvalidRoute(f"{name} declares no scope: say which one its callers need")
        if self.scope == PUBLIC and self.path not in PUBLIC_PATHS:
            raise InvalidRoute(f"{name} may not be public: only {', '.join(sorted(PUBLIC_PATHS))} are")
        if self.streaming and self.body is not None:
            raise InvalidRoute(f"{name} cannot both stream its body and validate it")


def body_too_large(bytes_max: int) -> Problem:
    """Return the problem of a body past its bound."""
    return BODY_TOO_LARGE.problem(f"the body is larger than {bytes_max} bytes")
