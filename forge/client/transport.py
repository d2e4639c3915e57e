"""Requests to one node: sent again as `Retry` says, and their answers or problems read."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from forge.client.errors import ForgeError, NodeUnreachable, UnexpectedAnswer
from forge.client.retry import RETRIED_STATUSES, Retry, retry_after_s
from forge.client.source import BytesSource, Source
from schemas.ids import InvalidId, Position

CONNECTIONS_MAX = 64
WAITING_SAID_S = 3.0  # so long a person may believe that it just takes a moment
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

Model = TypeVar("Model", bound=BaseModel)
Waiting = Callable[[str], None]
"""Is told, once for each request that takes long, what is waited for and how long at most."""


class Transport:
    """A connection pool to one node. Raises as `ForgeClient` says."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_s: float,
        retry: Retry,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        waiting: Waiting | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.retry = retry
        self.timeout_s = timeout_s
        self.sleep = sleep
        self.clock = clock
        self.waiting = waiting
        parsed = httpx2.URL(self.url)
        self.http = httpx2.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
            limits=httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
            verify=parsed.scheme == "https",  # reading the certificate store costs more than a request
            trust_env=parsed.host not in _LOOPBACK,  # a proxy cannot reach this machine's loopback
        )

    async def ask(self, model: type[Model], method: str, path: str, body: Mapping[str, Any] | None = None) -> Model:
        """Send JSON and return the answer as `model`."""
        return self.parse(model, await self.send(method, path, json=body))

    async def send(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        source: Source | None = None,
    ) -> httpx2.Response:
        """Send a request that is safe to repeat until it succeeds, is refused for good, or `retry` gives up."""
        started, failures = self.clock(), 0
        problem: ForgeError | NodeUnreachable | None = None
        with self._telling(lambda: self._waited_for(problem)):
            while True:
                sent = dict(headers or {})
                if source is not None and not isinstance(source, BytesSource):
                    sent["Content-Length"] = str(source.size_bytes)  # else it is chunked, and refused late
                content = source.chunks() if source is not None else None
                asked_s: float | None = None
                try:
                    response = await self.http.request(
                        method, path, json=json, params=params, headers=sent, content=content
                    )
                except httpx2.TransportError as error:
                    problem, budget_s = unreachable(self.url, error), self.retry.unreachable_s
                else:
                    if response.is_success:
                        return response
                    problem = problem_of(response)
                    if response.status_code not in RETRIED_STATUSES:
                        raise problem
                    asked_s, budget_s = problem.retry_after, self.retry.total_s
                failures += 1
                wait_s = self.retry.wait_s(failures, asked_s)
                if failures >= self.retry.attempts or self.clock() - started + wait_s > budget_s:
                    raise problem
                await self.sleep(wait_s)

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float | None = None,
    ) -> AsyncIterator[httpx2.Response]:
        """Send once and give the answer with its body unread; `silence_s` bounds the wait for each part of it.

        A connection that breaks meanwhile is a `NodeUnreachable` too, wherever in the block that is noticed.
        """
        wait_s = silence_s or self.timeout_s
        timeout = httpx2.Timeout(wait_s, connect=min(self.timeout_s, 10.0))
        request = self.http.build_request(method, path, json=json, params=params, headers=headers, timeout=timeout)
        try:
            with self._telling(lambda: _unanswered(self.url, wait_s)):
                response = await self.http.send(request, stream=True)
            async with aclosing(response):
                if not response.is_success:
                    await response.aread()
                    raise problem_of(response)
                yield response
        except httpx2.TransportError as error:
            raise unreachable(self.url, error) from error

    async def health(self, path: str) -> httpx2.Response:
        """Send one GET and return the answer, whatever its status."""
        try:
            with self._telling(lambda: _unanswered(self.url, self.timeout_s)):
                return await self.http.get(path)
        except httpx2.TransportError as error:
            raise unreachable(self.url, error) from error

    @contextmanager
    def _telling(self, said: Callable[[], str]) -> Iterator[None]:
        """Tell whoever waits what is `said`, once this has taken long."""
        if (told := self.waiting) is None:
            yield
            return
        timer = asyncio.get_running_loop().call_later(WAITING_SAID_S, lambda: told(said()))
        try:
            yield
        finally:
            timer.cancel()

    def _waited_for(self, problem: ForgeError | NodeUnreachable | None) -> str:
        """Return what `send` waits for: the first answer, or a better one than the last."""
        match problem:
            case None:
                return _unanswered(self.url, self.timeout_s)
            case ForgeError():
                return f"{problem}; asking again, for {self.retry.total_s:g} s at most"
        return f"{problem}; trying again, for {self.retry.unreachable_s:g} s at most"

    def parse(self, model: type[Model], response: httpx2.Response) -> Model:
        """Return the body as `model`; raise `UnexpectedAnswer`."""
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            raise UnexpectedAnswer(self.url, f"{response.request.url.path}: {where}: {first['msg']}") from error

    def position(self, response: httpx2.Response) -> Position | None:
        """Return the `Forge-Position` of an answer."""
        text = response.headers.get("Forge-Position")
        try:
            return Position.parse(text) if text else None
        except InvalidId as error:
            raise UnexpectedAnswer(self.url, f"Forge-Position: {error}") from error

    def object(self, response: httpx2.Response) -> dict[str, Any]:
        """Return the body as a JSON object; raise `UnexpectedAnswer`."""
        try:
            body = response.json()
        except ValueError as error:
            raise UnexpectedAnswer(self.url, f"{response.request.url.path} is not JSON") from error
        if not isinstance(body, dict):
            raise UnexpectedAnswer(self.url, f"{response.request.url.path} is not a JSON object")
        return body


def unreachable(url: str, error: httpx2.TransportError) -> NodeUnreachable:
    """Return a failed connection as an error of ours."""
    why = str(error) or type(error).__name__
    hangs = isinstance(error, httpx2.ReadTimeout | httpx2.WriteTimeout)
    if hangs:
        timeout_s = error.request.extensions["timeout"]["read"]
        why = f"it took the request, and nothing came from it for {timeout_s:g} s"
    problem = NodeUnreachable(url, why, hangs=hangs)
    problem.__cause__ = error
    return problem


def _unanswered(url: str, bound_s: float) -> str:
    return f"no answer from {url} for {WAITING_SAID_S:g} s; waiting for it, {bound_s:g} s at most"


def problem_of(response: httpx2.Response) -> ForgeError:
    """Return what a refusal says; its body has been read."""
    try:
        body = response.json()
    except ValueError:
        body = None
    return problem_from(response.status_code, body, response)


def problem_from(status: int, body: Any, response: httpx2.Response | None = None) -> ForgeError:
    """Return the problem in a JSON body, be it that of an answer or of one event in a stream."""
    said: dict[str, Any] = body if isinstance(body, dict) else {}
    headers = response.headers if response else {}

    def text(name: str, default: str = "") -> str:
        return str(said.get(name) or default)

    return ForgeError(
        status=status,
        type=text("type", "about:blank"),
        title=text("title", text("error", (response.reason_phrase if response else "") or "refused")),
        detail=text("detail", text("error")),
        fix=text("fix"),
        request_id=text("request_id", headers.get("X-Request-Id", "")),
        retry_after=retry_after_s(headers.get("Retry-After")),
        body=said,
    )
