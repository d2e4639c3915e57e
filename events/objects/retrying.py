"""An object store that tries again: with jitter, up to a deadline, and only where that may help."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from prometheus_client import Counter, Histogram

from events.backoff import delays
from events.objects.errors import (
    CorruptObject,
    ObjectMissing,
    PreconditionFailed,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from events.objects.port import LIST_MAX, Folders, Listed, Object, ObjectStore

DEADLINE_S = 20.0  # from the first attempt to the last
BASE_S, CAP_S = 0.05, 2.0
WAITING_SAID_S = 3.0
WAITING: ContextVar[Callable[[str], None] | None] = ContextVar("WAITING", default=None)
"""Is told, in words, of requests that take long: set by commands, before whom a person sits. A node has metrics."""
FILE_DEADLINE_S = 600.0

SECONDS = Histogram(
    "forge_object_seconds",
    "One attempt of a request to the object store.",
    ["operation"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
REQUESTS = Counter("forge_object_requests_total", "Attempts of requests to the object store.", ["operation", "outcome"])

Result = TypeVar("Result")


class RetryingStore:
    """`store` with patience. A change that is tried again may meet its own first attempt: `PreconditionFailed`."""

    def __init__(self, store: ObjectStore, *, deadline_s: float = DEADLINE_S) -> None:
        self._store = store
        self._deadline_s = deadline_s

    async def create(self, key: str, data: bytes) -> str:
        """Store a new object."""
        return await self._try("create", lambda: self._store.create(key, data))

    async def create_file(self, key: str, path: Path, digest: str) -> None:
        """Store a file as a new object; a damaged file is not tried again."""
        await self._try("create_file", lambda: self._store.create_file(key, path, digest), FILE_DEADLINE_S)

    async def swap(self, key: str, data: bytes, tag: str) -> str:
        """Replace one version of an object."""
        return await self._try("swap", lambda: self._store.swap(key, data, tag))

    async def put(self, key: str, data: bytes) -> str:
        """Store an object whatever is there."""
        return await self._try("put", lambda: self._store.put(key, data))

    async def get(self, key: str) -> Object:
        """Return an object; bytes that were damaged on their way are asked for again."""
        return await self._try("get", lambda: self._store.get(key), again=(StoreUnavailable, CorruptObject))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return some of an object's bytes."""
        return await self._try("get_range", lambda: self._store.get_range(key, start, length))

    async def size(self, key: str) -> int | None:
        """Return the size of an object."""
        return await self._try("size", lambda: self._store.size(key))

    async def list(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Sequence[Listed]:
        """Return one page of keys."""
        return await self._try("list", lambda: self._store.list(prefix, after=after, limit=limit))

    async def folders(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Folders:
        """Return one page of folders."""
        return await self._try("folders", lambda: self._store.folders(prefix, after=after, limit=limit))

    async def delete(self, key: str) -> None:
        """Remove an object."""
        await self._try("delete", lambda: self._store.delete(key))

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def _try(
        self,
        operation: str,
        attempt: Callable[[], Awaitable[Result]],
        deadline_s: float | None = None,
        again: tuple[type[StoreError], ...] = (StoreUnavailable,),
    ) -> Result:
        patience_s = deadline_s if deadline_s is not None else self._deadline_s
        deadline = time.monotonic() + patience_s
        with _telling(patience_s):
            for wait_s in delays(base_s=BASE_S, cap_s=CAP_S):
                try:
                    return await _measured(operation, attempt)
                except again as error:
                    if isinstance(error, StoreRefused) or time.monotonic() + wait_s > deadline:
                        raise
                await asyncio.sleep(wait_s)
        raise AssertionError("delays never end")


@contextmanager
def _telling(patience_s: float) -> Iterator[None]:
    if (told := WAITING.get()) is None:
        yield
        return
    line = f"the object store has not answered for {WAITING_SAID_S:g} s; asking again for {patience_s:g} s"
    timer = asyncio.get_running_loop().call_later(WAITING_SAID_S, told, line)
    try:
        yield
    finally:
        timer.cancel()


async def _measured(operation: str, attempt: Callable[[], Awaitable[Result]]) -> Result:
    outcome = "failed"
    started = time.monotonic()
    try:
        result = await attempt()
        outcome = "done"
        return result
    except ObjectMissing:
        outcome = "missing"
        raise
    except PreconditionFailed:
        outcome = "precondition"
        raise
    except CorruptObject:
        outcome = "corrupt"
        raise
    finally:
        SECONDS.labels(operation).observe(time.monotonic() - started)
        REQUESTS.labels(operation, outcome).inc()
