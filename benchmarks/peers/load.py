"""The load: many clients that send prepared requests over kept connections, each its next after the last answer."""

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any, cast

import httptools

from benchmarks.peers.processes import own_cpu_s

ANSWER_S = 30.0


class CallFailed(Exception):
    """A server answered something else than success."""


def encode_request(method: str, path: str, headers: dict[str, str], body: Any = None) -> bytes:
    """Return one HTTP/1.1 request as bytes; a `body` that is no bytes is sent as JSON."""
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(raw)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


class Connection(asyncio.Protocol):
    """One kept connection; one request at a time. Parsing is C, so that a server is what is measured."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.WriteTransport | None = None
        self._parts: list[bytes] = []
        self._answer: asyncio.Future[bytes] | None = None
        self._requests: Iterator[bytes] | None = None
        self._sent = self._end = 0.0
        self.latencies: list[float] = []

    @classmethod
    async def open(cls, port: int) -> "Connection":
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
        self._send(request, time.perf_counter())
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def _send(self, request: bytes, now: float) -> None:
        assert self._transport is not None
        self._parts.clear()
        self._sent = now
        self._transport.write(request)

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(CallFailed(f"the connection was closed: {exc}"))

    # httptools
    def on_body(self, part: bytes) -> None:
        """Keep a part of the body."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """Note the time, and go on or end."""
        now = time.perf_counter()
        assert self._answer is not None
        if not 200 <= self._parser.get_status_code() < 300:
            self._fail()
        elif self._requests is None:
            self._answer.set_result(b"".join(self._parts))
        else:
            self.latencies.append(now - self._sent)
            following = next(self._requests, None) if now < self._end else None
            if following is None:
                self._answer.set_result(b"")
            else:
                self._send(following, now)

    def _fail(self) -> None:
        assert self._answer is not None
        body = b"".join(self._parts)[:500].decode(errors="replace")
        self._answer.set_exception(CallFailed(f"{self._parser.get_status_code()}: {body}"))


async def call(port: int, request: bytes) -> Any:
    """Send one request over a connection of its own; return the JSON of its answer."""
    connection = await Connection.open(port)
    try:
        async with asyncio.timeout(ANSWER_S):
            body = await connection.call(request)
        return json.loads(body) if body else None
    finally:
        connection.close()


async def measure(port: int, requests: Iterator[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Let `clients` send `requests` for a while, or all; return rate, latencies, and how many cores that took here."""
    connections = [await Connection.open(port) for _ in range(clients)]
    try:
        cpu, began = own_cpu_s(), time.perf_counter()
        async with asyncio.timeout(seconds + ANSWER_S):
            await asyncio.gather(*(connection.run(requests, began + seconds) for connection in connections))
        wall = time.perf_counter() - began
    finally:
        for connection in connections:
            connection.close()
    taken = [one for connection in connections for one in connection.latencies]
    return summary(taken, wall) | {"load_cpu": round((own_cpu_s() - cpu) / wall, 3)}


def summary(seconds: list[float], wall_s: float) -> dict[str, float]:
    """Return number, rate and percentiles of calls that took `seconds` each within `wall_s`."""
    return {"calls": len(seconds), "per_s": round(len(seconds) / wall_s, 1)} | percentiles(seconds)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return p50 and p99 in milliseconds."""
    if len(seconds) < 2:
        seconds = [*(seconds or [0.0]) * 2]
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50_ms": round(cuts[49] * 1e3, 3), "p99_ms": round(cuts[98] * 1e3, 3)}
