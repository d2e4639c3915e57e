"""When an archiver looks for what is new in its stream, and until when what it has found may wait."""

import asyncio
import time
from collections.abc import Callable

POLL_S, POLL_MAX_S = 1.0, 10.0  # looks after so long even if nobody tells of news


class Pace:
    """What has come is to be stored `seal_s` after the first of it came. `news`: whoever waits has to look again."""

    def __init__(self, seal_s: float, look_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """It is looked for what has come when that is `look_bytes`, so that it need not be kept elsewhere."""
        self._clock = clock
        self._seal_s = seal_s
        self._gather_s = seal_s  # the rest is for storing it
        self._look_bytes = look_bytes
        self._came_at: float | None = None  # when the first came of what was not looked for yet,
        self._came_bytes = 0  # and how much it is, as far as anybody tells
        self._due_at: float | None = None  # of what was found and waits
        self._looked_at = 0.0
        self._poll_s = POLL_S
        self._at_once = True
        self.news = asyncio.Event()

    def came(self, size_bytes: int = 0) -> None:
        """Hear that something came. That wakes for the first after a look and for much: the others are found then."""
        self._came_bytes += size_bytes
        if self._came_at is None:
            self._came_at = self._clock()
            self.news.set()
        elif self._came_bytes >= self._look_bytes:
            self.news.set()

    def look(self) -> float:
        """Note that a look begins; return when what it finds is due. Unless `looked` is called it is repeated."""
        self._looked_at = self._clock()
        if self._due_at is None:
            self._due_at = self._gather_s + (self._looked_at if self._came_at is None else self._came_at)
        self._came_at, self._came_bytes, self._at_once = None, 0, True
        return self._due_at

    def looked(self, *, found: bool, waits: bool, more: bool) -> None:
        """Note that it ended: whether something was `found`, whether something still `waits`, or may be there."""
        self._poll_s = POLL_S if found else min(2 * self._poll_s, POLL_MAX_S)
        if not waits:
            self._due_at = None
            spent_s = self._clock() - self._looked_at
            self._gather_s = self._seal_s - min(spent_s, self._seal_s / 2)  # half stays, however slow the store is
        self._at_once = more

    @property
    def look_in_s(self) -> float:
        """In how many seconds it is time to look; 0 or less: now."""
        if self._at_once or self._came_bytes >= self._look_bytes:
            return 0.0
        look_at = self._due_at
        if look_at is None:
            look_at = self._looked_at + self._poll_s if self._came_at is None else self._came_at + self._gather_s
        return look_at - self._clock()
