"""A typed client for all of a node's API."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from forge.client.errors import ForgeError, NodeUnreachable, UnexpectedAnswer
from forge.client.replies import Health, Presence, UploadResult
from forge.client.retry import RETRIED_STATUSES, Retry, retry_after_s
from forge.client.source import BytesSource, Source, as_source
from schemas.ids import InvalidId, Position, parse_cid
from schemas.vector import EmbeddingReply, JobsReply, LookupReply, RequeueReply, SearchReply, UploadReply

CONNECTIONS_MAX = 64
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

Model = TypeVar("Model", bound=BaseModel)


class ForgeClient:
    """An open connection pool to one node; use it with `async with`.

    Every method repeats a request that the node refused for now or that got no answer, as `retry` says;
    all requests are safe to repeat. They raise `ForgeError` for a refusal, `NodeUnreachable` when no answer
    came, `UnexpectedAnswer` when something else than a node answered.
    """

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        timeout_s: float = 120.0,
        retry: Retry | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url.rstrip("/")
        self._retry = retry or Retry()
        self._sleep = sleep
        self._clock = clock
        parsed = httpx2.URL(self.url)
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
            limits=httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
            verify=parsed.scheme == "https",  # reading the certificate store costs more than a request
            trust_env=parsed.host not in _LOOPBACK,  # a proxy cannot reach this machine's loopback
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def lookup(self, kind: str, hashes: Sequence[str]) -> dict[str, Presence]:
        """Return what the node knows of each content hash; one that it does not mention is missing."""
        if not hashes:
            return {}
        reply = await self._ask(LookupReply, "POST", "/api/v1/lookup", {"kind": kind, "hashes": list(hashes)})
        return {h: reply.status.get(h, "missing") for h in hashes}

    async def upload(self, source: Source | bytes | Path | str | BinaryIO, file_hash: str, kind: str) -> UploadResult:
        """Send the bytes whose BLAKE3 is `file_hash` to be embedded; return when they are durable.

        `source` is bytes, a path or an open file; each attempt reads it from its start.
        """
        content = as_source(source)
        headers = {"X-File-Hash": parse_cid(file_hash), "X-Embedding-Kind": kind}
        response = await self._send("POST", "/api/v1/upload", headers=headers, source=content)
        reply = self._parse(UploadReply, response)
        return UploadResult(reply.status, reply.job_id, self._position(response))

    async def search(
        self,
        kind: str,
        *,
        hash: str | None = None,
        vector: Sequence[float] | None = None,
        k: int = 10,
        model: str | None = None,
    ) -> SearchReply:
        """Return the `k` stored vectors nearest to `vector`, or to the one stored for `hash`.

        Only vectors of one model are compared: `model`, else the one that the node chooses.
        """
        if (hash is None) == (vector is None):
            raise ValueError("give either a hash or a vector")
        query: dict[str, Any] = {"hash": hash} if vector is None else {"vector": list(vector)}
        query |= {"model": model} if model else {}
        return await self._ask(SearchReply, "POST", "/api/v1/search", {"kind": kind, "k": k} | query)

    async def embedding(self, kind: str, file_hash: str) -> EmbeddingReply:
        """Return the stored vector of a content hash; a `ForgeError` with status 404 if there is none."""
        return await self._ask(EmbeddingReply, "GET", f"/api/v1/embeddings/{kind}/{parse_cid(file_hash)}")

    async def failed(self, kind: str | None = None, *, limit: int = 100, after: int | None = None) -> JobsReply:
        """Return a page of dead letters: jobs that have used up their attempts."""
        asked = {"status": "error", "kind": kind, "limit": limit, "after": after}
        given = {name: value for name, value in asked.items() if value is not None}
        return self._parse(JobsReply, await self._send("GET", "/api/v1/jobs", params=given))

    async def all_failed(self, kind: str | None = None, *, limit: int = 100) -> AsyncIterator[JobsReply]:
        """Yield every page of dead letters, `limit` jobs each."""
        page = await self.failed(kind, limit=limit)
        yield page
        while page.next is not None:
            page = await self.failed(kind, limit=limit, after=page.next)
            yield page

    async def requeue(self, kind: str | None = None, *, hashes: Sequence[str] = (), all: bool = False) -> int:
        """Put dead letters back into the queue, those of `hashes` or all; return how many."""
        if bool(hashes) == all:
            raise ValueError("give either hashes or all=True")
        body: dict[str, Any] = {"kind": kind} if kind else {}
        body |= {"all": True} if all else {"hashes": [parse_cid(h) for h in hashes]}
        return (await self._ask(RequeueReply, "POST", "/api/v1/jobs/requeue", body)).requeued

    async def status(self) -> dict[str, Any]:
        """Return the node's own account of itself."""
        return self._object(await self._send("GET", "/status"))

    async def healthz(self) -> Health:
        """Tell whether the node's process answers; not repeated, never a `ForgeError`."""
        return await self._health("/healthz")

    async def readyz(self) -> Health:
        """Tell whether the node can do its work, each check with its value; not repeated."""
        return await self._health("/readyz")

    async def metrics(self) -> str:
        """Return the node's metrics in the Prometheus text format."""
        return (await self._send("GET", "/metrics")).text

    async def _health(self, path: str) -> Health:
        try:
            response = await self._http.get(path)
        except httpx2.TransportError as error:
            raise NodeUnreachable(self.url, _why(error)) from error
        return Health(ok=response.status_code == 200, body=self._object(response))

    async def _ask(self, model: type[Model], method: str, path: str, body: Mapping[str, Any] | None = None) -> Model:
        return self._parse(model, await self._send(method, path, json=body))

    async def _send(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        source: Source | None = None,
    ) -> httpx2.Response:
        started = self._clock()
        failures = 0
        while True:
            sent = dict(headers or {})
            if source is not None and not isinstance(source, BytesSource):
                sent["Content-Length"] = str(source.size_bytes)  # else it is chunked, and refused late
            content = source.chunks() if source is not None else None
            asked_s: float | None = None
            try:
                response = await self._http.request(
                    method, path, json=json, params=params, headers=sent, content=content
                )
            except httpx2.TransportError as error:
                problem: ForgeError | NodeUnreachable = NodeUnreachable(self.url, _why(error))
                problem.__cause__ = error
                budget_s = self._retry.unreachable_s
            else:
                if response.is_success:
                    return response
                problem = _problem(response)
                if response.status_code not in RETRIED_STATUSES:
                    raise problem
                asked_s, budget_s = problem.retry_after, self._retry.total_s
            failures += 1
            wait_s = self._retry.wait_s(failures, asked_s)
            if failures >= self._retry.attempts or self._clock() - started + wait_s > budget_s:
                raise problem
            await self._sleep(wait_s)

    def _parse(self, model: type[Model], response: httpx2.Response) -> Model:
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            raise UnexpectedAnswer(self.url, f"{response.request.url.path}: {where}: {first['msg']}") from error

    def _position(self, response: httpx2.Response) -> Position | None:
        text = response.headers.get("Forge-Position")
        try:
            return Position.parse(text) if text else None
        except InvalidId as error:
            raise UnexpectedAnswer(self.url, f"Forge-Position: {error}") from error

    def _object(self, response: httpx2.Response) -> dict[str, Any]:
        try:
            body = response.json()
        except ValueError as error:
            raise UnexpectedAnswer(self.url, f"{response.request.url.path} is not JSON") from error
        if not isinstance(body, dict):
            raise UnexpectedAnswer(self.url, f"{response.request.url.path} is not a JSON object")
        return body


def _problem(response: httpx2.Response) -> ForgeError:
    try:
        body = response.json()
    except ValueError:
        body = None
    said: dict[str, Any] = body if isinstance(body, dict) else {}

    def text(name: str, default: str = "") -> str:
        return str(said.get(name) or default)

    return ForgeError(
        status=response.status_code,
        type=text("type", "about:blank"),
        title=text("title", text("error", response.reason_phrase or "refused")),
        detail=text("detail", text("error")),
        fix=text("fix"),
        request_id=text("request_id", response.headers.get("X-Request-Id", "")),
        retry_after=retry_after_s(response.headers.get("Retry-After")),
    )


def _why(error: httpx2.TransportError) -> str:
    return str(error) or type(error).__name__
