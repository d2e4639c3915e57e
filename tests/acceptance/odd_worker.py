"""An embedding worker that does to each file what the file's first word says, until it is mended."""

import asyncio
import contextlib
from collections import Counter
from typing import Self

GOOD = b'{"model": "odd", "embedding": [0.6, 0.8]}'
HUGE_BYTES = 100 << 20
_CHUNK = b"1," * (32 << 10)
_BODIES = {
    "good": GOOD,
    "nan": b"[NaN, 1]",
    "infinite": b"[1e999, 1]",
    "nested": b"[[0.6, 0.8], [0.8, 0.6]]",
    "empty": b"[]",
    "words": b'["a", "b"]',
    "longer": b'{"model": "odd", "embedding": [0.6, 0.8, 0.0]}',
    "html": b"<html>busy</html>",
}


class OddWorker:
    """The worker, on one port for its life; `stop` and `start` make it go away and come back.

    `calls` counts requests by first word. Words are those of `_BODIES`, and: `hang`, `huge` (100 MiB), `cut`, `500`.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.mended = False
        self.port = 0
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, again on the port of before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections and break off the open ones."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            self._running.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
        word = body.split(b" ", 1)[0].decode()
        self.calls[word] += 1
        if self.mended:
            word = "good"
        match word:
            case "hang":
                await asyncio.Event().wait()
            case "huge":
                await _send(writer, b"200 OK", b"[", HUGE_BYTES)
            case "cut":
                pass
            case "500":
                await _send(writer, b"500 Broken", b"no model is loaded")
            case _:
                await _send(writer, b"200 OK", _BODIES[word])


async def _send(writer: asyncio.StreamWriter, status: bytes, body: bytes, more_bytes: int = 0) -> None:
    length = len(body) + more_bytes
    writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, length, body))
    for _ in range(more_bytes // len(_CHUNK)):
        writer.write(_CHUNK)
        await writer.drain()
    await writer.drain()
