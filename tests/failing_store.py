"""Stores in memory in which a change fails, is forgotten, or waits."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from events.objects.errors import StoreUnavailable
from events.objects.memory import MemoryStore
from events.objects.port import checksum


class Failing(MemoryStore):
    """A store in which one call after so many fails: before it is done, or after."""

    def __init__(self, after: int, *, done: bool) -> None:
        super().__init__()
        self.left = after
        self._done = done

    async def create(self, key: str, data: bytes) -> str:
        """Store a new object, or fail."""
        return await self._maybe(super().create(key, data))

    async def swap(self, key: str, data: bytes, tag: str) -> str:
        """Replace one version of an object, or fail."""
        return await self._maybe(super().swap(key, data, tag))

    async def _maybe(self, call: Coroutine[Any, Any, str]) -> str:
        self.left -= 1
        if self.left == 0 and not self._done:
            call.close()
            raise StoreUnavailable("as asked")
        result = await call
        if self.left == 0:
            raise StoreUnavailable("as asked, after it was done")
        return result


class Forgetful(MemoryStore):
    """A store that says it has stored chunks, and has not."""

    forgets = False

    async def create(self, key: str, data: bytes) -> str:
        """Store a new object, or say so."""
        return checksum(data) if self.forgets and "/pages/" in key else await super().create(key, data)


class Holding(MemoryStore):
    """A store that holds the manifest back whose key has `holds` in it, if that is anything."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = ""
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    async def create(self, key: str, data: bytes) -> str:
        """Store a new object, a manifest perhaps later."""
        if self.holds and self.holds in key and key.endswith("manifest.json"):
            self.reached.set()
            await self.go.wait()
        return await super().create(key, data)
