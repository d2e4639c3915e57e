"""A typed client for all of a node's API."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from forge.client.document import Document
from forge.client.documents import Documents
from forge.client.replicas import Replicas
from forge.client.replies import Health, Presence, UploadResult
from forge.client.retry import Retry
from forge.client.source import Source, as_source
from forge.client.tokens import Tokens
from forge.client.transport import Transport, Waiting
from schemas.ids import parse_cid, parse_db_id
from schemas.vector_bodies import EmbeddingReply, JobsReply, LookupReply, RequeueReply, SearchReply, UploadReply


class ForgeClient:
    """An open connection pool to one node; use it with `async with`.

    Every method repeats a request that the node refused for now or that got no answer, as `retry` says;
    all requests are safe to repeat. They raise `ForgeError` for a refusal, `NodeUnreachable` when no answer
    came, `UnexpectedAnswer` when something else than a node answered. `waiting` is told, in words, what a request
    waits for that takes longer than three seconds.
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
        waiting: Waiting | None = None,
    ) -> None:
        self._transport = Transport(
            url, token, timeout_s=timeout_s, retry=retry or Retry(), sleep=sleep, clock=clock, waiting=waiting
        )
        self.url = self._transport.url
        self.documents = Documents(self._transport)
        self.tokens = Tokens(self._transport)
        self.replicas = Replicas(self._transport)

    def db(self, db_id: str) -> Document:
        """Return the document `db_id`, without asking whether there is one; raise `InvalidId`."""
        return Document(self._transport, parse_db_id(db_id))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.http.aclose()

    async def lookup(self, kind: str, hashes: Sequence[str]) -> dict[str, Presence]:
        """Return what the node knows of each content hash; one that it does not mention is missing."""
        if not hashes:
            return {}
        reply = await self._transport.ask(LookupReply, "POST", "/api/v1/lookup", {"kind": kind, "hashes": list(hashes)})
        return {h: reply.status.get(h, "missing") for h in hashes}

    async def upload(self, source: Source | bytes | Path | str | BinaryIO, file_hash: str, kind: str) -> UploadResult:
        """Send the bytes whose BLAKE3 is `file_hash` to be embedded; return when they are durable.

        `source` is bytes, a path or an open file; each attempt reads it from its start.
        """
        content = as_source(source)
        headers = {"X-File-Hash": parse_cid(file_hash), "X-Embedding-Kind": kind}
        response = await self._transport.send("POST", "/api/v1/upload", headers=headers, source=content)
        reply = self._transport.parse(UploadReply, response)
        return UploadResult(reply.status, reply.job_id, self._transport.position(response))

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
        return await self._transport.ask(SearchReply, "POST", "/api/v1/search", {"kind": kind, "k": k} | query)

    async def embedding(self, kind: str, file_hash: str) -> EmbeddingReply:
        """Return the stored vector of a content hash; a `ForgeError` with status 404 if there is none."""
        return await self._transport.ask(EmbeddingReply, "GET", f"/api/v1/embeddings/{kind}/{parse_cid(file_hash)}")

    async def failed(
        self, kind: str | None = None, *, status: str = "error", limit: int = 100, after: int | None = None
    ) -> JobsReply:
        """Return a page of jobs; by default of dead letters, which have used up their attempts."""
        asked = {"status": status, "kind": kind, "limit": limit, "after": after}
        given = {name: value for name, value in asked.items() if value is not None}
        return self._transport.parse(JobsReply, await self._transport.send("GET", "/api/v1/jobs", params=given))

    async def all_failed(
        self, kind: str | None = None, *, status: str = "error", limit: int = 100
    ) -> AsyncIterator[JobsReply]:
        """Yield every page of them, `limit` jobs each."""
        page = await self.failed(kind, status=status, limit=limit)
        yield page
        while page.next is not None:
            page = await self.failed(kind, status=status, limit=limit, after=page.next)
            yield page

    async def requeue(self, kind: str | None = None, *, hashes: Sequence[str] = (), all: bool = False) -> int:
        """Put dead letters back into the queue, those of `hashes` or all; return how many."""
        if bool(hashes) == all:
            raise ValueError("give either hashes or all=True")
        body: dict[str, Any] = {"kind": kind} if kind else {}
        body |= {"all": True} if all else {"hashes": [parse_cid(h) for h in hashes]}
        return (await self._transport.ask(RequeueReply, "POST", "/api/v1/jobs/requeue", body)).requeued

    async def status(self) -> dict[str, Any]:
        """Return the node's own account of itself."""
        return self._transport.object(await self._transport.send("GET", "/status"))

    async def replicate_status(self, *, page: int = 1000) -> dict[str, Any]:
        """Return how far the log is archived, with all partitions; asks for `page` of them at a time."""
        state: dict[str, Any] = {"partitions": [], "next": ""}
        while (after := state["next"]) is not None:
            query = {"after": after, "limit": page}
            answer = await self._transport.send("GET", "/api/v1/replicate/status", params=query)
            found = self._transport.object(answer)
            state = {**found, "partitions": state["partitions"] + found["partitions"]}
        return state

    async def make_generations(self, projections: Sequence[str]) -> list[dict[str, Any]]:
        """Make generations of a few projections now; those that are not done yet say `making`: ask again."""
        answer = await self._transport.send(
            "POST", "/api/v1/replicate/generations", json={"projections": list(projections)}
        )
        made: list[dict[str, Any]] = self._transport.object(answer)["generations"]
        return made

    async def healthz(self) -> Health:
        """Tell whether the node's process answers; not repeated, never a `ForgeError`."""
        return await self._health("/healthz")

    async def readyz(self) -> Health:
        """Tell whether the node can do its work, each check with its value; not repeated."""
        return await self._health("/readyz")

    async def metrics(self) -> str:
        """Return the node's metrics in the Prometheus text format."""
        return (await self._transport.send("GET", "/metrics")).text

    async def _health(self, path: str) -> Health:
        response = await self._transport.health(path)
        return Health(ok=response.status_code == 200, body=self._transport.object(response))
