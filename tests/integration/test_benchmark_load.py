"""The load of the benchmarks, against servers that answer in parts, with errors, or not at all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice, repeat
from pathlib import Path

import pytest

from benchmarks.peers.feeds import Listener
from benchmarks.peers.load import CallFailed, call, encode_request, measure
from benchmarks.peers.plain_sqlite import plain_sqlite
from benchmarks.peers.workload import KINDS

REQUEST = encode_request("POST", "/", {"Authorization": "Bearer x"}, {"a": 1})
CHUNKED = b'HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n'
REFUSED = b"HTTP/1.1 409 Conflict\r\nContent-Length: 4\r\n\r\nbusy"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FRAMES = (b"retry: 1\n\nid: 1.1\nev", b"ent: update\ndata: 7\n", b"\nid: 1.2\nevent: update\ndata: 8\n\nid: 1.3")


@asynccontextmanager
async def answering(*parts: bytes) -> AsyncIterator[int]:
    """Answer every request with `parts`, one after the other; yield the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(len(REQUEST.partition(b"\r\n\r\n")[2]))
                for part in parts:
                    writer.write(part)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


async def test_every_request_is_counted_once_also_when_answers_come_in_parts() -> None:
    async with answering(CHUNKED[:50], CHUNKED[50:]) as port:
        assert await call(port, REQUEST) == {"a": 1}
        figures = await measure(port, islice(repeat(REQUEST), 100), 8, 60.0)
    assert figures["calls"] == 100


async def test_an_answer_that_is_no_success_ends_a_measurement() -> None:
    async with answering(REFUSED) as port:
        with pytest.raises(CallFailed, match="409: busy"):
            await measure(port, repeat(REQUEST), 2, 60.0)


async def test_a_listener_hands_out_whole_frames() -> None:
    heard: list[bytes] = []
    third = asyncio.Event()

    def hear(frame: bytes, _: float) -> None:
        heard.append(frame)
        if len(heard) == 3:
            third.set()

    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in FRAMES]
    async with answering(STREAM, *chunks) as port:
        listener = await Listener.open(port, REQUEST, hear)
        await asyncio.wait_for(third.wait(), 10)
        listener.close()
    assert heard == [b"retry: 1", b"id: 1.1\nevent: update\ndata: 7", b"id: 1.2\nevent: update\ndata: 8"]


async def test_plain_sqlite_makes_the_calls_of_all_kinds(tmp_path: Path) -> None:
    with plain_sqlite(tmp_path) as database:
        for kind in KINDS:
            figures = await database.measure(kind, 3, 0.05)
            assert figures["calls"] >= 3, kind
