"""A number of bytes that several may take at the same time, and one who wants more than all of them alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """`take` waits until there is room."""

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._taken = 0
        self._given_back = asyncio.Event()

    @asynccontextmanager
    async def take(self, size_bytes: int) -> AsyncIterator[None]:
        """Hold so many bytes; whoever wants more than there are waits until nobody holds any."""
        wanted = min(size_bytes, self._size)
        while self._taken + wanted > self._size:
            self._given_back.clear()
            await self._given_back.wait()
        self._taken += wanted
        try:
            yield
        finally:
            self._taken -= wanted
            self._given_back.set()
