"""SQLite work in threads, which cannot be interrupted."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, wait
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def in_thread(executor: Executor, work: Callable[..., T], *arguments: object) -> T:
    """Return what `work` returns. If cancelled, wait for its end first: it still uses what the caller would close."""
    future = executor.submit(work, *arguments)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        while not future.done():
            with suppress(asyncio.CancelledError):  # once more changes nothing
                await asyncio.to_thread(wait, [future])
        raise
