"""Whose query runs next: a bounded number at a time, shared fairly among documents."""

import asyncio
from collections import OrderedDict, deque
from contextlib import suppress

from schemas.problems import UNAVAILABLE, Refusal


class Turns:
    """At most `total` at a time, `per_key` of one key; more wait for at most `wait_s`, in order within their key.

    Waiting is bounded, in all and per key, so that a busy key can only make itself wait. Use it on one event loop:
    `take` before, `give` after.
    """

    def __init__(
        self, total: int, per_key: int, *, waiting_max: int = 1024, waiting_per_key_max: int = 256, wait_s: float = 5.0
    ) -> None:
        self._free = total
        self._per_key = per_key
        self._waiting_max = waiting_max
        self._waiting_per_key_max = waiting_per_key_max
        self._wait_s = wait_s
        self._running: dict[str, int] = {}
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self.waiting = 0

    async def take(self, key: str) -> None:
        """Return when it is `key`'s turn; raise `Refusal` (503) if too many wait, or if it takes too long."""
        if self._free and key not in self._queues and self._running.get(key, 0) < self._per_key:
            self._begin(key)
            return
        queue = self._queues.get(key)
        if self.waiting >= self._waiting_max or (queue and len(queue) >= self._waiting_per_key_max):
            raise Refusal(
                UNAVAILABLE.problem(f"{len(queue or ())} queries of {key} wait already, {self.waiting} in all")
            )
        await self._wait(key)

    async def _wait(self, key: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(key, deque()).append(turn)
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.give(key)  # it came at the moment of leaving
            else:
                self._leave(key, turn)
            if isinstance(error, TimeoutError):
                why = f"no query of {key} could begin for {self._wait_s:g} s"
                raise Refusal(UNAVAILABLE.problem(why)) from None
            raise

    def give(self, key: str) -> None:
        """Say that a turn of `key` is over."""
        self._free += 1
        left = self._running[key] - 1
        if left:
            self._running[key] = left
        else:
            del self._running[key]
        self._let_next_begin()

    def _begin(self, key: str) -> None:
        self._free -= 1
        self._running[key] = self._running.get(key, 0) + 1

    def _leave(self, key: str, turn: "asyncio.Future[None]") -> None:
        queue = self._queues.get(key, deque())
        with suppress(ValueError):  # unless it was passed over already
            queue.remove(turn)
            self._left(key, queue)

    def _left(self, key: str, queue: "deque[asyncio.Future[None]]") -> None:
        self.waiting -= 1
        if not queue:
            del self._queues[key]

    def _let_next_begin(self) -> None:
        while (key := self._first_that_may()) is not None:
            queue = self._queues[key]
            turn = queue.popleft()
            self._queues.move_to_end(key)
            self._left(key, queue)
            if not turn.done():  # else its caller is leaving
                self._begin(key)
                turn.set_result(None)
                return

    def _first_that_may(self) -> str | None:
        """Return the first key in line that may begin; few stand before it, since those run as many as they may."""
        return next((key for key in self._queues if self._running.get(key, 0) < self._per_key), None)
