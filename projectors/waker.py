"""Somebody who waits for news until a deadline; one at a time."""

import asyncio


class Waker:
    """`wait` until `wake` is called or the deadline is there. `close` when nobody waits any more."""

    __slots__ = ("_timer", "_waiter")

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        """Return at `deadline` (of the loop's clock) or before: a timer per event would cost as much as the rest."""
        if self._timer is not None and self._timer.when() > deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._ring)
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """Let whoever waits look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Ring no more; may be called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self.wake()
