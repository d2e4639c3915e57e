"""Looks into the object store for one answer to a person: with little patience, and none once the store is away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from events.objects.errors import StoreUnavailable

PATIENCE_S = 10.0  # the store has twice as much, which is too much for each of a thousand documents

Result = TypeVar("Result")


class Looks:
    """The looks of one answer: after the first that finds the store away, nothing is asked of it any more."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self.away = ""  # why nothing is asked any more

    async def look(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Return what `ask` finds; raise `StoreUnavailable`, and what `ask` raises."""
        if self.away:
            raise StoreUnavailable(self.away)
        try:
            async with asyncio.timeout(self._patience_s):
                return await ask()
        except TimeoutError:
            self.away = f"the object store does not answer within {self._patience_s:g} s"
            raise StoreUnavailable(self.away) from None
        except StoreUnavailable as error:
            self.away = str(error)
            raise
