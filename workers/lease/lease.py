"""What others know of a writer lease: who holds it, since which epoch, and whether this process may write."""

import asyncio
from dataclasses import dataclass
from typing import Protocol, Self

from events.write_guard import WriteGuard
from schemas.writer_lease import LeaseRecord


@dataclass(frozen=True, slots=True)
class Held:
    """The lease is ours. `before` is the record that it replaced, None if there was none.

    `taken` says that the epoch is new to this place: another one held it before, or nobody. Whoever writes in it begins
    by saying where the epochs before end, and looks himself whether that was said: he may have died after he took it.
    """

    epoch: int
    before: LeaseRecord | None
    taken: bool


@dataclass(frozen=True, slots=True)
class Contended:
    """Somebody else holds it, for `remaining_s` at most unless it is renewed."""

    holder: LeaseRecord
    remaining_s: float


class WriterLease(Protocol):
    """The right to write below a prefix, for one process at a time.

    `guard` is open while it is held, by our own clock; while the store is away it closes in time, and opens again by
    itself if nobody else took the lease. Run by `async with`, which gives it back at the end.
    """

    async def __aenter__(self) -> Self:
        """Begin; nothing is acquired yet."""

    async def __aexit__(self, *_: object) -> None:
        """Give it back."""

    @property
    def guard(self) -> WriteGuard:
        """What everything that writes asks. One object for the life of the process; it opens and closes."""

    @property
    def epoch(self) -> int:
        """The epoch that we hold, or held last; 0 before the first time."""

    @property
    def holder(self) -> LeaseRecord | None:
        """The record as it was last seen, ours or another's."""

    @property
    def trouble(self) -> str:
        """Why the store does not tell who holds it, empty if it does."""

    @property
    def lost(self) -> asyncio.Event:
        """Set when another holds what we held; `acquire` begins anew. A store that is away does not set it."""

    async def try_acquire(self) -> Held | Contended:
        """Acquire it if nobody holds it; raise `StoreError` if the store does not tell."""

    async def acquire(self) -> Held:
        """Wait until it is ours, however long; cancel it to give up. From then on it is renewed by itself."""

    async def release(self, *, hand_over: bool = True) -> None:
        """Give it back at once; the guard closes first. Does nothing if it is not ours.

        Without `hand_over` it runs out by itself, so that this place can go on before another takes over.
        """
