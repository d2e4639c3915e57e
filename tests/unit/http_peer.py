"""A small HTTP server for the tests of what talks to a node: its answers are a function of the test."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """`status` 0 closes the connection without an answer."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


HANG_UP = Answer(0)
Handler = Callable[[Request], Answer]


@dataclass
class Peer:
    url: str
    requests: list[Request] = field(default_factory=list)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Peer]:
    """Serve on a free port of 127.0.0.1 and note every request."""
    connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections[task] = writer
        try:
            while request := await _request(reader):
                peer.requests.append(request)
                answer = handler(request)
                if answer.status == 0:
                    break
                writer.write(_encoded(answer))
                await writer.drain()
                if answer.headers.get("Connection") == "close":
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    peer = Peer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield peer
    finally:
        server.close()
        for writer in connections.values():
            writer.close()
        await asyncio.gather(*connections)
        await server.wait_closed()


async def _request(reader: asyncio.StreamReader) -> Request | None:
    line = await reader.readline()
    if not line:
        return None
    method, path, _ = line.decode().split()
    headers = {}
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode().partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    return Request(method, path, headers, body)


def _encoded(answer: Answer) -> bytes:
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} | answer.headers
    lines = [f"HTTP/1.1 {answer.status} Status", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


class VectorPeer:
    """The part of the vector API that an ingest uses, in memory."""

    def __init__(self, *, present: set[str] | None = None, processing: set[str] | None = None) -> None:
        self.present = present or set()
        self.processing = processing or set()
        self.uploads: list[bytes] = []
        self.before_upload: Callable[[Request], Answer | None] = lambda _: None

    def __call__(self, request: Request) -> Answer:
        if request.path == "/api/v1/lookup":
            return Answer(200, {"status": {h: self._presence(h) for h in request.json()["hashes"]}})
        if request.path == "/api/v1/upload":
            return self.before_upload(request) or self._upload(request)
        return Answer(404, {"error": "no such path"})

    def _presence(self, digest: str) -> str:
        return "present" if digest in self.present else "processing" if digest in self.processing else "missing"

    def _upload(self, request: Request) -> Answer:
        digest = request.headers["x-file-hash"]
        if blake3(request.body).hexdigest() != digest:
            return Answer(400, {"error": "hash mismatch"})
        self.uploads.append(request.body)
        self.present.add(digest)
        return Answer(202, {"status": "accepted", "job_id": len(self.uploads)}, {"Forge-Position": "1.7"})
