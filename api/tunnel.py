"""The bytes of a connection once it speaks another protocol than HTTP: both ways, neither side ahead of the other."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from api.problems import ClientGone


class Wire(Protocol):
    """What a tunnel needs of its connection."""

    writable: asyncio.Event

    def write(self, data: bytes) -> None: ...
    def is_closing(self) -> bool: ...
    def adjust_reading(self) -> None: ...
    def abort(self) -> None: ...


class Asked(Protocol):
    """The request that asked for another protocol."""

    def switch_protocols(self, headers: Iterable[tuple[bytes, bytes]]) -> None: ...
    def leave_protocol(self, *, clean: bool) -> None: ...


class Tunnel:
    """Until it is opened, what arrives is kept, within the bound of a body that waits for its handler."""

    __slots__ = ("_asked", "_chunks", "_wake", "_wire", "buffered_bytes", "gone", "tell")

    def __init__(self, wire: Wire, asked: Asked) -> None:
        self.buffered_bytes = 0
        self._wire = wire
        self._asked = asked
        self._chunks: list[bytes] = []
        self.gone = False
        self.tell: Callable[[], object] | None = None  # called when the connection is gone
        self._wake = asyncio.Event()

    def arrived(self, data: bytes) -> None:
        """Take the next bytes from the client."""
        if data and not self.gone:
            self._chunks.append(data)
            self.buffered_bytes += len(data)
            self._wake.set()

    def lost(self) -> None:
        """The connection is gone."""
        self.gone = True
        self._chunks.clear()
        self._wake.set()
        if self.tell is not None:
            self.tell()

    def open(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Answer 101 with `headers`; raise `ClientGone` if nobody is there."""
        self._asked.switch_protocols(headers)

    async def read(self) -> bytes:
        """Return what has arrived, at least one byte; raise `ClientGone` when nothing will any more."""
        while not self._chunks:
            if self.gone:
                raise ClientGone
            self._wake.clear()
            await self._wake.wait()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self.buffered_bytes = 0
        self._wire.adjust_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes, and wait while the client is slow; raise `ClientGone` if it left."""
        if self.gone or self._wire.is_closing():
            raise ClientGone
        self._wire.write(data)
        if not self._wire.writable.is_set():
            await self._wire.writable.wait()

    def close(self, *, clean: bool) -> None:
        """Close the connection; unless `clean`, the client may still be sending, and what it sends is dropped."""
        if not self.gone:
            self._asked.leave_protocol(clean=clean)

    def abort(self) -> None:
        """Cut the connection."""
        self._wire.abort()
