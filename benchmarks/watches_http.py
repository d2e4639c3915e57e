"""What a watch costs a node that serves it over HTTP."""

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

from benchmarks.http_client import KeptConnection
from benchmarks.node import BenchNode, bench_node
from forge.open_files import raise_open_files


async def over_http(count: int) -> dict[str, Any]:
    """Hold `count` streams of a node open, each of another query; return what the node needs for each."""
    raise_open_files(2 * count, 1)
    with bench_node(FORGE_CONNECTIONS_MAX=str(count + 100)) as node:
        http = await KeptConnection.open(node.url, node.token)
        await http.post("/api/v1/db", b'{"db_id": "watched"}')
        sql = b'{"sql": "CREATE TABLE t (id INTEGER PRIMARY KEY, a)"}'
        assert (await http.post("/api/v1/db/watched/query/exec", sql))[0] == 200
        await _open_streams(node, range(10))
        before, began = node.rss_bytes(), time.perf_counter()
        streams = [
            stream for first in range(0, count, 50) for stream in await _open_streams(node, range(first, first + 50))
        ]
        opening_s, memory = time.perf_counter() - began, node.rss_bytes() - before
        for writer in streams:
            writer.close()
        http.close()
    return {"streams": count, "opening_s": round(opening_s, 2), "kib_per_stream": round(memory / count / 1024, 2)}


async def _open_streams(node: BenchNode, numbers: range) -> list[asyncio.StreamWriter]:
    return await asyncio.gather(*(_open_stream(node, number) for number in numbers))


async def _open_stream(node: BenchNode, number: int) -> asyncio.StreamWriter:
    """Open a stream and wait for its snapshot."""
    address = urlsplit(node.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = b'{"sql": "SELECT count(*) FROM t WHERE a = %d"}' % number
    head = f"Host: {address.netloc}\r\nAuthorization: Bearer {node.token}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(b"POST /api/v1/db/watched/query/watch HTTP/1.1\r\n" + head.encode() + body)
    await reader.readuntil(b"event: snapshot")
    return writer
