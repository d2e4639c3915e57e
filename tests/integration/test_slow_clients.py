"""Slow clients report truly what a server did to them: answered, closed, or left them open."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.slowclients import SlowReport, hold_sockets, send_half_bodies, send_half_headers

WAIT_S = 10.0
HOLD_S = 2.0  # a hundred connections are made in it, on a busy machine too


@asynccontextmanager
async def http_server(deadline_s: float, answer: bytes) -> AsyncIterator[int]:
    """A server that reads for `deadline_s`, then sends `answer` and closes; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                while await reader.read(4096):
                    pass
        except (TimeoutError, ConnectionError):
            pass
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=256)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def slow_fates(deadline_s: float, answer: bytes, hold_s: float) -> SlowReport:
    async with http_server(deadline_s, answer) as port:
        return await send_half_headers("127.0.0.1", port, count=100, hold_s=hold_s, interval_s=0.02)


async def test_slow_clients_tell_answered_from_closed_from_open() -> None:
    """PR7: the report can tell a server that has a header deadline from one that has none."""
    answered = await slow_fates(0.1, b"HTTP/1.1 408 Request Timeout\r\n\r\n", WAIT_S)
    closed = await slow_fates(0.1, b"", WAIT_S)
    held = await slow_fates(WAIT_S, b"", HOLD_S)

    assert (answered.fates, answered.statuses) == ({"answered": 100}, {408: 100})
    assert (closed.fates, closed.statuses) == ({"closed": 100}, {})
    assert held.fates == {"open": 100}
    assert held.longest_s >= HOLD_S


async def test_half_bodies_send_a_whole_head_and_only_some_of_the_body() -> None:
    """PR7: what the server gets is valid but for its unfinished body."""
    got = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.readuntil(b"\r\n\r\n"))
        got.extend(await reader.readexactly(3))
        writer.write(b"HTTP/1.1 413 Too Large\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        report = await send_half_bodies(
            "127.0.0.1", port, count=1, hold_s=WAIT_S, interval_s=0.01, path="/up", headers={"A": "b"}
        )

    assert report.statuses == {413: 1}
    expected = f"POST /up HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 1048576\r\nA: b\r\n\r\nxxx"
    assert got.decode() == expected


async def test_slow_clients_report_a_server_that_is_not_there() -> None:
    async with http_server(1, b"") as port:
        pass

    report = await hold_sockets("127.0.0.1", port, b"x", count=3, hold_s=1, interval_s=1)

    assert report.fates == {"not connected": 3}
