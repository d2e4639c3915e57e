"""No lease: for a node that somebody else makes sure is the only one."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

from events.write_guard import WriteGuard
from schemas.writer_lease import LeaseRecord
from workers.lease import metrics
from workers.lease.lease import Held


class NoLease:
    """See `WriterLease`: it is always ours, and says nothing to anybody. `epoch_now` tells the epoch to go on with."""

    def __init__(self, epoch_now: Callable[[], Awaitable[int]]) -> None:
        self.guard = WriteGuard()
        self.epoch = 0
        self.holder: LeaseRecord | None = None
        self.lost = asyncio.Event()
        self.trouble = ""
        self._epoch_now = epoch_now

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    async def try_acquire(self) -> Held:
        """Begin to write."""
        self.epoch = await self._epoch_now()
        metrics.epoch.set(self.epoch)
        self.guard.open_until(float("inf"))
        return Held(self.epoch, None, False)

    async def acquire(self) -> Held:
        """Begin to write."""
        return await self.try_acquire()

    async def release(self, *, hand_over: bool = True) -> None:
        """Write no more."""
        self.guard.close("this node is stopping")
