"""One kept connection on which the next request goes out after the answer to the last, whatever the protocol."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Self, cast

OPENING = 32  # connections that are opened at the same time


class CallFailed(Exception):
    """A server answered something else than success."""


class Caller(asyncio.Protocol):
    """A subclass parses what comes, and says `answered` or `failed` once for each request."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._requests: Iterator[bytes] | None = None
        self._sent = self._end = 0.0
        self.latencies: list[float] = []

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to a server on this machine."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def call(self, request: bytes) -> bytes:
        """Send one request; return the body of its answer; raise `CallFailed`."""
        self._requests = None
        return await self._start(request)

    async def run(self, requests: Iterator[bytes], end: float) -> None:
        """Send one request after the other until `end` (a `time.perf_counter`) or the last; note how long each took."""
        self._requests, self._end = requests, end
        if (first := next(requests, None)) is not None:
            await self._start(first)

    async def _start(self, request: bytes) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        self.send(request, time.perf_counter())
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def send(self, request: bytes, now: float) -> None:
        """Send a request at `now`."""
        assert self._transport is not None
        self._sent = now
        self._transport.write(request)

    def answered(self, body: bytes = b"") -> None:
        """Note the time, and go on or end."""
        now = time.perf_counter()
        assert self._answer is not None
        if self._requests is None:
            self._answer.set_result(body)
            return
        self.latencies.append(now - self._sent)
        following = next(self._requests, None) if now < self._end else None
        if following is None:
            self._answer.set_result(b"")
        else:
            self.send(following, now)

    def failed(self, why: str) -> None:
        """End with `CallFailed`."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(CallFailed(why))

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits."""
        self.failed(f"the connection was closed: {exc}")


async def open_all(kind: type[Caller] | Any, port: int, clients: int) -> list[Any]:
    """Open connections, a few at a time, so that no backlog of a server runs over."""
    gate = asyncio.Semaphore(OPENING)

    async def one() -> Any:
        async with gate:
            return await kind.open(port)

    return list(await asyncio.gather(*(one() for _ in range(clients))))
