"""The window of a history that is kept in the archive: what of it may go, and which generations must stay for it.

A moment can be read if there is a generation at or before it, and every record since. So a window has a *base* for each
projection, the newest generation at or before its beginning, and all that is older than the bases may go.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import NamedTuple

from schemas.archive import SegmentKey
from schemas.ids import Position
from schemas.instants import later
from workers.log_retention.rule import Follower

DAY_S = 86_400
STEPS = 8
"""Into so many parts a window is divided, of each of which a generation is kept: the next bases."""


class Window(NamedTuple):
    """All since `days` before `now` can be read; 0: everything."""

    days: float
    now: str

    @property
    def start(self) -> str:
        """Its first moment; before all others if it has none."""
        return later(self.now, -self.days * DAY_S) if self.days else ""


class Copy(NamedTuple):
    """A generation: where it stands, and when the newest event in it was written, empty if it cannot be read."""

    at: Position
    time: str


def base(copies: Iterable[Copy], window: Window) -> Copy | None:
    """Return the first of some generations, the newest first, from which the whole window can be read."""
    return next((copy for copy in copies if copy.time and copy.time <= window.start), None)


def needed(copies: Sequence[Copy], window: Window, floor: int) -> set[Position]:
    """Return which of some generations of a projection, the newest first, must stay.

    `floor` is the first record that the archive has. What it begins with stays until all before the next base has gone:
    that one may turn out to be damaged.
    """
    usable = [copy for copy in copies if copy.time and copy.at.index >= floor]
    stay = {usable[-1].at} if usable and floor > 1 else set()
    if not window.days:
        return stay
    parts: set[int] = set()
    part_days = max(1, round(window.days) // STEPS)
    for copy in usable:
        if copy.time <= window.start:
            return stay | {copy.at}
        part = date.fromisoformat(copy.time[:10]).toordinal() // part_days
        if part not in parts:
            parts.add(part)
            stay.add(copy.at)
    return stay


def kept_from(bases: Sequence[int], told: int, followers: Iterable[Follower]) -> int:
    """Return the first record that must stay, of a partition whose projections have these bases.

    The archive says that it has reached record `told`, and whoever looks for its end begins there. A replica that is
    heard goes on from where it is; one that is stalled takes a new copy.
    """
    return min(*bases, told, *(one.at for one in followers if not one.stalled))


def going(segments: Sequence[SegmentKey], first: int) -> Sequence[SegmentKey]:
    """Return those of some segments, in their order, that may go: the first ones, as far as they end before `first`."""
    return segments[: next((n for n, key in enumerate(segments) if key.last >= first), len(segments))]
