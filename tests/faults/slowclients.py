"""Clients that send half of an HTTP request, slowly, and report what the server did about it."""

import asyncio
import contextlib
import resource
import time
from collections import Counter
from dataclasses import dataclass
from typing import Literal

SPARE_FILES = 256
READ_BYTES = 4096

Fate = Literal["not connected", "answered", "closed", "open"]


@dataclass(frozen=True, slots=True)
class SlowClient:
    """What became of one socket: its fate, the status it was answered with, and after how many seconds.

    "answered": got a status line (then closed by us); "closed": the server ended the connection without one;
    "open": neither happened while we held on.
    """

    fate: Fate
    status: int | None
    after_s: float


@dataclass(frozen=True, slots=True)
class SlowReport:
    """What the server did with all of them."""

    clients: tuple[SlowClient, ...]

    @property
    def fates(self) -> Counter[Fate]:
        """How many sockets met which fate."""
        return Counter(client.fate for client in self.clients)

    @property
    def statuses(self) -> Counter[int]:
        """How many sockets were answered with which HTTP status."""
        return Counter(client.status for client in self.clients if client.status is not None)

    @property
    def longest_s(self) -> float:
        """How long the last socket lasted until it was answered or closed, or we gave up."""
        return max((client.after_s for client in self.clients), default=0.0)


async def send_half_headers(
    host: str, port: int, *, count: int, hold_s: float, interval_s: float = 1.0, path: str = "/"
) -> SlowReport:
    """Open `count` sockets that send a request line, then one more header byte every `interval_s`, never the end.

    Each is held for at most `hold_s` seconds.
    """
    opening = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nX-Slow: ".encode()
    return await hold_sockets(host, port, opening, count=count, hold_s=hold_s, interval_s=interval_s)


async def send_half_bodies(
    host: str,
    port: int,
    *,
    count: int,
    hold_s: float,
    interval_s: float = 1.0,
    method: str = "POST",
    path: str = "/",
    headers: dict[str, str] | None = None,
    size_bytes: int = 1 << 20,
) -> SlowReport:
    """Open `count` sockets that promise a body of `size_bytes` and send one byte of it every `interval_s`."""
    lines = {"Host": f"{host}:{port}", "Content-Length": str(size_bytes)} | (headers or {})
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return await hold_sockets(host, port, head.encode() + b"\r\n", count=count, hold_s=hold_s, interval_s=interval_s)


async def hold_sockets(
    host: str, port: int, opening: bytes, *, count: int, hold_s: float, interval_s: float
) -> SlowReport:
    """Open `count` sockets, send `opening` and then one byte every `interval_s` until answered, closed or held."""
    _allow_files(count)
    clients = [_hold(host, port, opening, hold_s, interval_s) for _ in range(count)]
    return SlowReport(tuple(await asyncio.gather(*clients)))


async def _hold(host: str, port: int, opening: bytes, hold_s: float, interval_s: float) -> SlowClient:
    started = time.monotonic()
    fate: Fate = "not connected"
    answer = b""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(hold_s):
            reader, writer = await asyncio.open_connection(host, port)
            trickle = asyncio.create_task(_trickle(writer, opening, interval_s))
            fate = "open"
            try:
                answer = await reader.read(READ_BYTES)
                fate = "answered" if answer.startswith(b"HTTP/") else "closed"
            except ConnectionError:
                fate = "closed"
            finally:
                trickle.cancel()
                await asyncio.gather(trickle, return_exceptions=True)
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    status = int(answer.split()[1]) if fate == "answered" else None
    return SlowClient(fate, status, time.monotonic() - started)


async def _trickle(writer: asyncio.StreamWriter, opening: bytes, interval_s: float) -> None:
    writer.write(opening)
    await writer.drain()
    while True:
        await asyncio.sleep(interval_s)
        writer.write(b"x")
        await writer.drain()


def _allow_files(count: int) -> None:
    """Raise this process's own limit of open files as far as `count` sockets need it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise ValueError(f"{count} sockets need {wanted} open files; the limit of this process is {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
