"""Ending tasks that run until they are told to stop, and running a bounded number of them at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

CANCEL_AGAIN_S = 0.1

Item = TypeVar("Item")


async def end(task: "asyncio.Task[Any]") -> None:
    """Cancel `task` until it is done: nats-py may swallow a cancellation that comes while it connects."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN_S)


async def for_each(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], at_once: int) -> None:
    """Do `work` on every item, on `at_once` at a time; the first failure ends the others and is raised."""
    iterator = iter(items)

    async def take() -> None:
        for item in iterator:
            await work(item)

    workers = [asyncio.create_task(take()) for _ in range(at_once)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
