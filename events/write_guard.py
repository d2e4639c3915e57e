"""Whether this process may write: asked before every append and every upload, opened by a writer lease for a while."""

import math
import time
from collections.abc import Callable
from typing import Self

from events.errors import NotTheWriter

Clock = Callable[[], float]

NEVER_HELD = "this node has not got the writer lease yet"
RAN_OUT = "the writer lease could not be renewed in time, so another node may be the writer"


def steady_clock() -> float:
    """Return seconds that no setting of a clock changes, and that a machine which sleeps counts too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class WriteGuard:
    """Closed until `open_until` is called, and again by itself when that time is over, or by `close`.

    It is asked by the clock: a process that was stopped and goes on sees at once that its time is over.
    """

    def __init__(self, clock: Clock = steady_clock) -> None:
        self._clock = clock
        self._until = -math.inf
        self._why: str | None = NEVER_HELD

    @classmethod
    def always_open(cls) -> Self:
        """Return the guard of a node that needs no lease, since there is nothing that two could write."""
        guard = cls()
        guard.open_until(math.inf)
        return guard

    @property
    def closed_because(self) -> str | None:
        """Why nothing may be written now; None while it may."""
        if self._why is None and self._until != math.inf and self._clock() >= self._until:
            return RAN_OUT
        return self._why

    @property
    def remaining_s(self) -> float:
        """For how long it stays open without being told anything; 0 if it is closed."""
        return 0.0 if self._why else max(0.0, self._until - self._clock())

    def check(self) -> None:
        """Raise `NotTheWriter` if nothing may be written now."""
        if (why := self.closed_because) is not None:
            raise NotTheWriter(why)

    def open_until(self, deadline: float) -> None:
        """Let things be written until `deadline` of the clock."""
        self._until, self._why = deadline, None

    def close(self, why: str) -> None:
        """Let nothing be written from now on."""
        self._why = why


ALWAYS_OPEN = WriteGuard.always_open()
"""For those who write where no lease is: nobody closes it."""
