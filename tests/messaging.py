"""A publisher and subscribers of a node's messages, as clients see them."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx2

WITHIN_S = 30.0  # only a broken program takes as long
DB = "home"


class Event(NamedTuple):
    """One event of a stream; `id` None if it has none."""

    name: str
    id: int | None
    data: Any


async def events(response: httpx2.Response) -> AsyncGenerator[Event]:
    """Yield the events of a stream; what has no data counts only if it has an id."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif not line and fields:
            id_ = int(fields["id"]) if "id" in fields else None
            if "data" in fields:
                yield Event(fields["event"], id_, json.loads(fields["data"]))
            elif id_ is not None:
                yield Event("", id_, None)
            fields = {}


@dataclass
class Stream:
    """An open stream, and what has come."""

    response: httpx2.Response
    coming: AsyncIterator[Event]
    seen: list[Event] = field(default_factory=list)

    async def next(self, name: str = "message") -> Event:
        """Return the next event of a kind; those of others before it are kept in `seen` too."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                self.seen.append(await anext(self.coming))
                if self.seen[-1].name == name:
                    return self.seen[-1]

    async def take(self, count: int) -> list[int]:
        """Return the ids of so many messages."""
        return [int((await self.next()).data["id"]) for _ in range(count)]


@dataclass
class Home:
    """A document of a node, and a client that may do everything."""

    client: httpx2.AsyncClient
    db_id: str = DB

    @property
    def path(self) -> str:
        """Where it is."""
        return f"/api/v1/db/{self.db_id}"

    async def post(self, body: Any = None, *, content: bytes | None = None, **more: Any) -> httpx2.Response:
        """Publish."""
        return await self.client.post(f"{self.path}/messages", json=body, content=content, **more)

    async def publish(self, topic: str, payload: Any = 1, **more: Any) -> int:
        """Publish a message that must be new; return its id."""
        reply = await self.post({"topic": topic, "payload": payload, **more})
        assert reply.status_code == 201, reply.text
        return int(reply.json()["id"])

    async def publish_all(self, *topics: str) -> list[int]:
        """Publish a message each, together; return the ids."""
        body = {"messages": [{"topic": topic, "payload": at} for at, topic in enumerate(topics)]}
        reply = await self.client.post(f"{self.path}/messages/batch", json=body)
        assert reply.status_code == 201, reply.text
        return [int(one["id"]) for one in reply.json()["messages"]]

    @asynccontextmanager
    async def subscribed(
        self, *filters: str, token: str = "", headers: dict[str, str] | None = None, **params: Any
    ) -> AsyncIterator[Stream]:
        """Follow messages."""
        sent = (headers or {}) | ({"authorization": f"Bearer {token}"} if token else {})
        query = {"topic": list(filters), **params}
        async with self.client.stream("GET", f"{self.path}/events/stream", params=query, headers=sent) as response:
            if response.status_code != 200:
                await response.aread()
            async with aclosing(events(response)) as coming:
                yield Stream(response, coming)

    async def mint(self, *scopes: tuple[str, ...], url: bool = False) -> Any:
        """Return a new token with scopes (action, db_id[, resource_prefix])."""
        asked = [dict(zip(("action", "db_id", "resource_prefix"), scope, strict=False)) for scope in scopes]
        body = {"label": "test", "scopes": asked, "url": url}
        reply = await self.client.post("/api/v1/admin/tokens", json=body)
        assert reply.status_code == 201, reply.text
        return reply.json()


@asynccontextmanager
async def opened_home(url: str, token: str, db_id: str = DB) -> AsyncIterator[Home]:
    """Make the document and give it."""
    headers = {"authorization": f"Bearer {token}"}
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits) as client:
        reply = await client.post("/api/v1/db", json={"db_id": db_id})
        assert reply.status_code in (200, 201), reply.text
        yield Home(client, db_id)
