"""Clients of the relay without sockets: every step of theirs is the test's to choose."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.datastructures import QueryParams

from api.auth import Access, Principal
from api.headers import Headers
from api.leaving import Departure
from api.problems import ClientGone
from api.relay.acts import perform
from api.relay.grammar import understand
from api.relay.relay import Relay
from api.routes import Reply, Request, StreamReply
from schemas.problems import Refusal

ROOT = Principal("root", is_admin=True)


class Actor:
    """One request, its body as it is given, and its answer as it is let through."""

    def __init__(self, relay: Relay, method: str, name: str, query: str = "") -> None:
        self.status: int | None = None  # once there is an answer
        self.body = b""
        self.ended = False
        """Whether the answer came to its end."""
        self.gone = False
        self._parts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._permits = asyncio.Semaphore(0)
        self._departure = Departure()
        self._streaming = False
        self._sent_all = False
        self._request: Request[Any] = Request(
            method=method,
            path=f"/p/{name}",
            params={},
            query=QueryParams(query),
            headers=Headers([]),
            body=None,
            principal=ROOT,
            id="r",
            stopping=asyncio.Event(),
            body_bytes_max=1 << 40,
            _receive=self._parts.get,
            departure=self._departure,
            db_id="public",
            _authoriser=Access("a-token"),
        )
        self.task = asyncio.ensure_future(self._run(relay, name))

    def send(self, data: bytes, *, last: bool) -> None:
        """Let a part of the body arrive."""
        if not self._sent_all:
            self._sent_all = last
            self._parts.put_nowait({"type": "http.request", "body": data, "more_body": not last})

    def let_through(self, parts: int = 1) -> None:
        """Let so many more parts of the answer through."""
        for _ in range(parts):
            self._permits.release()

    def leave(self) -> None:
        """Break the connection off."""
        if self.gone or self.ended:
            return
        self.gone = True
        self._parts.put_nowait({"type": "http.disconnect"})
        self._departure.happened()
        if self._streaming:
            self.task.cancel()

    async def _run(self, relay: Relay, name: str) -> None:
        try:
            reply = await perform(relay, self._request, understand(self._request, name), "public")
        except Refusal as refusal:
            self.status, self.ended = refusal.problem.status, True
            return
        except ClientGone:
            return
        if isinstance(reply, Reply):
            self.status, self.ended = reply.status, not self.gone
            self.body = reply.body if isinstance(reply.body, bytes) else b""
            await reply.over(complete=not self.gone)
            return
        await self._stream(reply)

    async def _stream(self, reply: StreamReply) -> None:
        """As the adapter does: whatever happens, the reply is told once."""
        self._streaming, self.status = True, reply.status
        complete = False
        try:
            if not self.gone:
                async for chunk in reply.chunks:
                    await self._permits.acquire()
                    self.body += chunk
                complete = True
        except (ClientGone, asyncio.CancelledError):
            pass
        finally:
            self.ended = complete
            await reply.over(complete=complete)


async def settle(steps: int = 30) -> None:
    """Let everything happen that can happen now."""
    for _ in range(steps):
        await asyncio.sleep(0)


async def settled(condition: Callable[[], bool]) -> bool:
    """Let things happen until `condition` holds, or nothing more would make it so."""
    for _ in range(200):
        if condition():
            return True
        await asyncio.sleep(0)
    return False
