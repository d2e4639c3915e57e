"""A minimal HTTP/1.1 client on one kept connection: so that a benchmark measures the node, not its client."""

import asyncio
from typing import Self
from urllib.parse import urlsplit


class KeptConnection:
    """One connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._head = head

    @classmethod
    async def open(cls, url: str, token: str) -> Self:
        """Connect to `url`."""
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 24)
        head = f"Host: {address.netloc}\r\nAuthorization: Bearer {token}\r\n".encode()
        return cls(reader, writer, head)

    async def post(self, path: str, body: bytes, headers: bytes = b"") -> tuple[int, bytes]:
        """Send a POST; return status and body of the answer."""
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        self._writer.write(b"POST " + path.encode() + b" HTTP/1.1\r\n" + self._head + headers + length + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        status = int(answer.split(b" ", 2)[1])
        lowered = answer.lower()
        at = lowered.index(b"content-length:") + len(b"content-length:")
        size = int(lowered[at : lowered.index(b"\r\n", at)])
        return status, await self._reader.readexactly(size)

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()
