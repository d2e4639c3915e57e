"""An event loop whose time is virtual: waiting costs nothing, and what is random by a seed happens in one order."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Timers fire at once, in their order. For what does no input and output and starts no threads."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """Return virtual seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; if nothing is, let the time pass that the loop would wait."""
        assert timeout is not None, "everything waits for something that nobody does"
        ready = super().select(0)
        if not ready and timeout > 0:
            self._loop.advance(timeout + 1e-9)
        return ready


def in_virtual_time(work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
