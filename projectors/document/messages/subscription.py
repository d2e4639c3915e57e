"""One subscriber of a document's messages: where it stands, and what comes next."""

import asyncio
from dataclasses import dataclass
from typing import Literal, Protocol

from projectors.document.messages.group import Batch, Group
from projectors.document.messages.queries import Tail, Window
from projectors.document.messages.ring import Ring
from projectors.waker import Waker
from schemas.problems import PARTITION_STOPPED, UNAVAILABLE, Problem, Refusal

ATTEMPTS_MAX = 6
RETRY_S = 0.25  # doubled with every attempt


@dataclass(frozen=True, slots=True)
class Lagged:
    """A subscriber was not fast enough, or away for too long: it has seen `after`, and `next` is the first to come.

    `slow`: what it misses is read from the document, nothing is lost. `pruned`: what was between is gone by the
    document's policy. `ahead`: the document has never had so many messages, it was brought back from an older copy.
    """

    after: int
    next: int
    reason: Literal["slow", "pruned", "ahead"]


class Source(Protocol):
    """What a subscription needs of its document."""

    ring: Ring

    async def newest(self) -> int:
        """Return the id of the newest message."""

    async def window(self, after: int, filters: tuple[str, ...]) -> Window:
        """Read on after an id."""

    async def tail(self, before: int, missing: int, filters: tuple[str, ...]) -> Tail:
        """Look further back for the last messages."""

    def look(self) -> None:
        """Find out what happened without news."""

    def leave(self, subscription: "Subscription") -> None:
        """Forget a subscriber."""


class Subscription:
    """Follows the messages that some filters pick: each once, in order, from where it began."""

    __slots__ = (
        "_attempts",
        "_checked",
        "_live",
        "_missing",
        "_problem",
        "_source",
        "_waker",
        "group",
        "seen",
    )

    def __init__(self, source: Source, group: Group, *, since: int | None, tail: int) -> None:
        """Begin after the id `since`; without it with what comes next, and the `tail` messages before that."""
        self.group = group
        self.seen = source.ring.end if since is None else since
        self._source = source
        self._missing = tail if since is None else 0
        self._live = False  # whether it has been up to date
        self._checked = since is None  # whether there ever were so many messages
        self._attempts = 0
        self._problem: Problem | None = None
        self._waker = Waker()

    async def begin(self) -> None:
        """Settle where it begins: whatever is published after this will come. Raise `Refusal`."""
        if self.seen is None:
            self.seen = await self._source.newest()

    async def next(self, wait_s: float) -> Batch | Lagged | None:
        """Return what comes next, None if that takes longer than `wait_s`. Raise `Refusal` once there is no more."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            if self._problem:
                raise Refusal(self._problem)
            assert self.seen is not None, "it has not begun"
            found = self._from_ring() if not self._missing else None
            if found is not None:
                return found
            if self._missing or self._behind:
                try:
                    found = await self._read()
                except Refusal as refusal:
                    await self._pause(refusal)
                    continue
                self._attempts = 0
                if found is not None:
                    return found
                continue
            self._live = True
            if loop.time() >= deadline:
                self._source.look()
                if not self._problem:
                    return None
                continue
            await self._waker.wait(deadline, loop)

    @property
    def begins_after(self) -> int | None:
        """The id after which it goes on, None while that is still to be looked for."""
        return None if self._missing else self.seen

    @property
    def _behind(self) -> bool:
        ring, seen = self._source.ring, self.seen
        assert seen is not None
        if ring.end is None or ring.base is None:
            return True
        return seen < ring.base or (seen > ring.end and not self._checked)

    def _from_ring(self) -> Batch | Lagged | None:
        ring = self._source.ring
        if ring.end is None or ring.base is None or self.seen is None:
            return None
        self.seen = self.group.passed(self.seen, ring.end)
        if self.seen < ring.base:
            return self._fallen_out(ring.began or 0)
        while self.seen < ring.end:
            batch = self.group.batch(ring, self.seen)
            self.seen = batch.upto
            if batch.messages:
                return batch
        return None

    def _fallen_out(self, began: int) -> Lagged | None:
        """Say so once if it could have kept up."""
        assert self.seen is not None
        was_live, self._live = self._live, False
        return Lagged(self.seen, self.seen + 1, "slow") if was_live and self.seen >= began else None

    async def _read(self) -> Batch | Lagged | None:
        """Go on from the document."""
        assert self.seen is not None
        if self._missing:
            found = await self._source.tail(self.seen + 1, self._missing, self.group.filters)
            self.seen, self._missing = found.after, found.missing
            return None
        read = await self._source.window(self.seen, self.group.filters)
        after, self._checked = self.seen, True
        if after > read.newest:
            self.seen = read.newest
            return Lagged(after, read.newest + 1, "ahead")
        if after + 1 < read.lowest:
            self.seen = read.lowest - 1  # the window is read again: that is said first
            return Lagged(after, read.lowest, "pruned")
        self.seen = read.upto
        return Batch(read.messages, read.upto) if read.messages else None

    async def _pause(self, refusal: Refusal) -> None:
        """Wait a bit if the document can be read again soon; else raise."""
        problem = refusal.problem
        passing = problem.status == UNAVAILABLE.status and problem.type != PARTITION_STOPPED.uri
        if not passing or self._attempts >= ATTEMPTS_MAX:
            raise refusal
        await asyncio.sleep(RETRY_S * 2**self._attempts)
        self._attempts += 1

    def wake(self) -> None:
        """Look again whether there is something."""
        self._waker.wake()

    def end(self, problem: Problem) -> None:
        """Nothing more comes, and why."""
        self._problem = problem
        self.wake()

    def close(self) -> None:
        """Stop following; may be called again."""
        self._waker.close()
        self._source.leave(self)
