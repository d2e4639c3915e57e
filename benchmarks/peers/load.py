"""The load: many clients that send prepared requests over kept connections, each its next after the last answer."""

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import httptools

from benchmarks.peers.caller import Caller, CallFailed, open_all
from benchmarks.peers.processes import own_cpu_s

ANSWER_S = 30.0

__all__ = ["CallFailed", "Connection", "call", "encode_request", "measure", "percentiles", "summary"]


def encode_request(method: str, path: str, headers: dict[str, str], body: Any = None) -> bytes:
    """Return one HTTP/1.1 request as bytes; a `body` that is no bytes is sent as JSON."""
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(raw)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


class Connection(Caller):
    """One kept connection of HTTP/1.1. Parsing is C, so that a server is what is measured."""

    def __init__(self) -> None:
        super().__init__()
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []

    def send(self, request: bytes, now: float) -> None:
        """See `Caller`."""
        self._parts.clear()
        super().send(request, now)

    # asyncio.Protocol
    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._parser.feed_data(data)

    # httptools
    def on_body(self, part: bytes) -> None:
        """Keep a part of the body."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """Hand out the answer."""
        body, status = b"".join(self._parts), self._parser.get_status_code()
        if 200 <= status < 300:
            self.answered(body)
        else:
            self.failed(f"{status}: {body[:500].decode(errors='replace')}")


async def call(port: int, request: bytes) -> Any:
    """Send one request over a connection of its own; return the JSON of its answer."""
    connection = await Connection.open(port)
    try:
        async with asyncio.timeout(ANSWER_S):
            body = await connection.call(request)
        return json.loads(body) if body else None
    finally:
        connection.close()


async def measure(
    port: int, requests: Iterator[bytes], clients: int, seconds: float, kind: type[Caller] = Connection
) -> dict[str, float]:
    """Let `clients` send `requests` for a while, or all; return rate, latencies, and how many cores that took here."""
    connections = await open_all(kind, port, clients)
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
