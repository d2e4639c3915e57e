"""Ending tasks that run until they are told to stop."""

import asyncio
from typing import Any

CANCEL_AGAIN_S = 0.1


async def end(task: "asyncio.Task[Any]") -> None:
    """Cancel `task` until it is done: nats-py may swallow a cancellation that comes while it connects."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN_S)
