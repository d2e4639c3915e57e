"""An HTTP server that reads requests, keeps them, and answers with bytes that it was given."""

import asyncio
from types import TracebackType
from typing import Self

PACE_BYTES = 1 << 20
HEAD_END = b"\r\n\r\n"


def answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    """Return an answer of a server that closes the connection behind it."""
    lines = {"Content-Length": str(len(body)), "Connection": "close", **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


class CannedServer:
    """Open while its context is; reads `PACE_BYTES` of a body in `pace_s` seconds at the least.

    It answers with `answers`, one after the other, and with `answer` when there are none left.
    Of the requests it keeps `targets` and `heads`, whose names are in lower case.
    """

    def __init__(self, answer: bytes = b"", *, pace_s: float = 0) -> None:
        self.answer = answer
        self.answers: list[bytes] = []
        self._pace_s = pace_s
        self.targets: list[str] = []
        self.heads: list[dict[str, str]] = []
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where clients ask."""
        assert self._server
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=PACE_BYTES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first, *lines = (await reader.readuntil(HEAD_END)).decode().strip().split("\r\n")
            head = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            left = int(head.get("content-length", "0"))
            while left:
                left -= len(await reader.readexactly(min(left, PACE_BYTES)))
                await asyncio.sleep(self._pace_s)
            self.targets.append(first.rsplit(" ", 1)[0])
            self.heads.append(head)
            writer.write(self.answers.pop(0) if self.answers else self.answer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            writer.close()
