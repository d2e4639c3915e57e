"""The body that one sender sends and others receive: read ahead up to a bound, then a window that slides."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Self

from api.problems import ClientGone
from api.relay.budget import Share

SPOOL_BYTES = 1 << 20
"""So much of a body is read before it is offered; a body that is no larger can be delivered again."""
WINDOW_BYTES = 256 << 10
"""So much of a larger one is kept between its sender and the slowest of its readers."""
WINDOW_CHUNKS = 1024
"""And in so many pieces: a sender may send single bytes."""
CHUNK_BYTES = 64 << 10
"""A reader is given at most so much of a spooled body at a time."""


class Body:
    """Bytes on their way from one sender to any number of readers.

    While nothing was dropped, whoever comes can read it from its beginning. A body must be closed: that gives its
    room in the budget back.
    """

    __slots__ = (
        "_announced",
        "_at_tail",
        "_budget",
        "_chunks",
        "_data",
        "_dropped",
        "_kept_bytes",
        "_readers",
        "_reserved",
        "_room",
        "broken",
        "complete",
        "discarded",
    )

    def __init__(self, budget: Share, announced_bytes: int | None = None) -> None:
        """`announced_bytes` is its size, if its sender is bound to that."""
        self.complete = False  # all of it has arrived
        self.broken = False  # the rest will never come
        self.discarded = False  # nobody wants the rest
        self._announced = announced_bytes
        self._budget = budget
        self._reserved = 0
        self._chunks: deque[bytes] = deque()
        self._kept_bytes = 0
        self._dropped = 0  # chunks that every reader has had
        self._readers: set[Reader] = set()
        self._at_tail = 0  # readers that have not had the oldest chunk that is kept
        self._data = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def rereadable(self) -> bool:
        """Whether somebody else can still have all of it."""
        return not (self._dropped or self.broken or self.discarded)

    @property
    def size_bytes(self) -> int | None:
        """How long it is; None if nobody knows yet."""
        return self._kept_bytes if self.complete and not self._dropped else self._announced

    def whole(self) -> bytes:
        """Return all of it; only while it is complete and nothing was dropped."""
        assert self.complete
        assert self.rereadable
        return b"".join(self._chunks)

    async def spool(self, source: AsyncIterator[bytes]) -> None:
        """Read until the body ends or the spool is full; `Refusal` (503) if there is no room for it."""
        spooled = bytearray()  # not chunks: a sender that trickles would have us keep a million of them
        async for chunk in source:
            self._reserve(len(spooled) + len(chunk))
            spooled += chunk
            if len(spooled) > SPOOL_BYTES:
                break
        else:
            self.complete = True
        for start in range(0, len(spooled), CHUNK_BYTES):
            self._chunks.append(bytes(spooled[start : start + CHUNK_BYTES]))
        self._kept_bytes = len(spooled)

    async def fill(self, source: AsyncIterator[bytes]) -> None:
        """Read the rest, not faster than it is taken."""
        async for chunk in source:
            while self._is_full() and not (self.broken or self.discarded):
                self._room.clear()
                await self._room.wait()
            if self.broken:
                return
            if not self.discarded:
                self._chunks.append(chunk)
                self._kept_bytes += len(chunk)
                self._data.set()
        self.complete = True
        self._data.set()

    def reader(self) -> "Reader":
        """Return a reader that begins at the beginning."""
        return Reader(self)

    def discard(self) -> None:
        """Nobody wants it: what is still to come is read and dropped, so that its sender can finish."""
        self.discarded = True
        self._drop_all()

    def close(self) -> None:
        """Nobody needs it any more; readers that have not had all of it are cut off."""
        self.broken = True
        self._drop_all()
        self._data.set()

    def _is_full(self) -> bool:
        return self._kept_bytes >= WINDOW_BYTES or len(self._chunks) >= WINDOW_CHUNKS

    def _reserve(self, size_bytes: int) -> None:
        if size_bytes > self._reserved:
            self._budget.take(size_bytes - self._reserved)
            self._reserved = size_bytes

    def _drop_had_by_all(self) -> None:
        """Make room, unless the whole can be kept for whoever comes next."""
        if not self._readers or (self.complete and not self._dropped):
            return
        least = min(reader.at for reader in self._readers)
        while self._dropped < least:
            self._kept_bytes -= len(self._chunks.popleft())
            self._dropped += 1
        self._at_tail = sum(reader.at == least for reader in self._readers)
        unused = self._reserved - max(self._kept_bytes, WINDOW_BYTES)
        if unused > 0:
            self._reserved -= unused
            self._budget.give(unused)
        if not self._is_full():
            self._room.set()

    def _drop_all(self) -> None:
        self._dropped += len(self._chunks)
        self._chunks.clear()
        self._kept_bytes = 0
        self._budget.give(self._reserved)
        self._reserved = 0
        self._room.set()


class Reader:
    """Gives one receiver the body in parts; raises `ClientGone`, which cuts that receiver off, if the rest is lost."""

    __slots__ = ("_body", "_cut", "at")

    def __init__(self, body: Body) -> None:
        assert not body._dropped
        self.at = 0  # chunks that it has had
        self._body = body
        self._cut = False
        body._readers.add(self)
        body._at_tail += 1

    @property
    def waits(self) -> bool:
        """Whether it has had all that there is so far, and more is to come."""
        body = self._body
        return not body.complete and self.at == body._dropped + len(body._chunks)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        body = self._body
        while True:
            if self._cut or body.broken:
                raise ClientGone
            if self.at < body._dropped + len(body._chunks):
                return self._next()
            if body.complete:
                raise StopAsyncIteration
            body._data.clear()
            await body._data.wait()

    def cut(self) -> None:
        """Stop giving: whoever reads has not had all of it, and must notice."""
        self._cut = True
        self._leave()
        self._body._data.set()

    async def aclose(self) -> None:
        """Stop reading."""
        self._leave()

    def _next(self) -> bytes:
        body = self._body
        chunk = body._chunks[self.at - body._dropped]
        if self.at == body._dropped:
            body._at_tail -= 1
        self.at += 1
        if body._at_tail <= 0:
            body._drop_had_by_all()
        return chunk

    def _leave(self) -> None:
        if self in self._body._readers:
            self._body._readers.discard(self)
            self._body._drop_had_by_all()
