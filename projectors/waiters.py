"""Those who wait until a partition is open, or has reached a position."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from schemas.problems import Problem, Refusal


class Waiters:
    """Conditions that somebody waits for. Call `check` when one may have come true."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Return when `condition` holds; raise `TimeoutError`, or `Refusal` if there is nothing to wait for."""
        if condition():
            return
        waiter = (condition, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter[1]
        finally:
            with suppress(ValueError):  # unless the condition came true
                self._waiting.remove(waiter)

    def check(self) -> None:
        """Let those go whose condition holds now."""
        for waiter in [waiter for waiter in self._waiting if waiter[0]()]:
            self._waiting.remove(waiter)
            if not waiter[1].done():
                waiter[1].set_result(None)

    def refuse(self, problem: Problem) -> None:
        """Tell all who wait that it will not happen by itself."""
        for _, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(Refusal(problem))
