"""Publishers that repeat what was not answered, and subscribers that come and go, over kills of the node."""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
from ulid import ULID

from schemas.topics import matches_any

DB = "home"
AGAIN_S = 0.05
PAUSE_S = 0.02
STAY_S = 2.0
Url = Callable[[], str]


@dataclass
class Publisher:
    """Publishes one message after the other, each until it is answered, with the same key."""

    number: int
    topics: Sequence[str]
    url: Url
    rng: random.Random
    answered: dict[int, int] = field(default_factory=dict)  # the id of each message by its number
    repeated: int = 0

    async def run(self, http: httpx2.AsyncClient, stop: asyncio.Event) -> None:
        """Publish until told to stop; what was begun is finished."""
        while not stop.is_set():
            number = len(self.answered)
            self.answered[number] = await self._publish(http, number)
            await asyncio.sleep(self.rng.uniform(0, 2 * PAUSE_S))

    async def _publish(self, http: httpx2.AsyncClient, number: int) -> int:
        body = {"topic": self.rng.choice(self.topics), "payload": [self.number, number]}
        headers = {"idempotency-key": str(ULID())}
        while True:
            with contextlib.suppress(httpx2.TransportError):
                reply = await http.post(f"{self.url()}/api/v1/db/{DB}/messages", json=body, headers=headers)
                if reply.status_code == 201:
                    return int(reply.json()["id"])
                assert reply.status_code in (408, 500, 502, 503), reply.text
            self.repeated += 1
            await asyncio.sleep(AGAIN_S)


@dataclass
class Subscriber:
    """Follows some filters from the beginning; leaves at random moments, and comes back with `Last-Event-ID`."""

    filters: Sequence[str]
    url: Url
    token: str
    rng: random.Random
    seen: list[int] = field(default_factory=list)
    lagged: list[str] = field(default_factory=list)
    connections: int = 0
    last: str = ""

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(self.rng.uniform(0, 2 * STAY_S)):
                    await self._follow()
            await asyncio.sleep(self.rng.uniform(0, 2 * PAUSE_S))

    async def _follow(self) -> None:
        address = urlsplit(self.url())
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 20)
        try:
            self.connections += 1
            query = "&".join(f"topic={quote(one, safe='')}" for one in self.filters) + "&since_id=0"
            # of HTTP/1.0, whose answers end with the connection and have no chunks
            head = f"GET /api/v1/db/{DB}/events/stream?{query} HTTP/1.0\r\nAuthorization: Bearer {self.token}\r\n"
            resumes = f"Last-Event-ID: {self.last}\r\n" if self.last else ""
            writer.write(f"{head}Host: node\r\n{resumes}\r\n".encode())
            if b" 200 " not in await reader.readuntil(b"\n"):
                return
            await reader.readuntil(b"\r\n\r\n")
            while True:
                self._take((await reader.readuntil(b"\n\n")).decode())
        finally:
            writer.close()

    def _take(self, block: str) -> None:
        lines = [line.partition(": ") for line in block.strip().split("\n")]
        fields = {name: value for name, _, value in lines if name}
        self.last = fields.get("id", self.last)
        if fields.get("event") == "message":
            assert json.loads(fields["data"])["id"] == int(fields["id"])
            self.seen.append(int(fields["id"]))
        elif fields.get("event") == "lagged":
            self.lagged.append(json.loads(fields["data"])["reason"])


def picked(rows: Sequence[tuple[int, str]], filters: Sequence[str]) -> list[int]:
    """Return the ids of messages whose topic some filter picks."""
    return [id_ for id_, topic in rows if matches_any(filters, topic)]


def some_filters(rng: random.Random) -> list[str]:
    """Return one or several filters of the topics that are published."""
    levels = [rng.choice(["+", "a", "b", "c"]), rng.choice(["+", "#", "1", "2", "3"])]
    one = "/".join(levels)
    return [one] if rng.random() < 0.7 else [one, rng.choice(["a/1", "b/#", "c/+", "a"])]


def topics() -> list[str]:
    """Return all topics that are published."""
    return [f"{first}/{second}" for first in "abc" for second in "123"] + ["a", "b/2/x"]


async def everything(http: httpx2.AsyncClient, url: str) -> list[tuple[int, str, Any]]:
    """Return id, topic and payload of all messages."""
    found: list[tuple[int, str, Any]] = []
    while True:
        sql = "SELECT id, topic, payload FROM messages WHERE id > ? ORDER BY id LIMIT 2000"
        body = {"sql": sql, "args": [found[-1][0] if found else 0]}
        reply = await http.post(f"{url}/api/v1/db/{DB}/query/exec", json=body)
        assert reply.status_code == 200, reply.text
        rows = reply.json()["rows"]
        found += [(id_, topic, json.loads(payload)) for id_, topic, payload in rows]
        if len(rows) < 2000:
            return found
