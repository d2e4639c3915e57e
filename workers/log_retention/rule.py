"""What of one partition may leave the server's log, and who keeps the rest there: a function of what is known."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

NEWEST = "the newest record"
PURGE_SHARE = 8  # of what stays: less than this part of it is not worth a purge


@dataclass(frozen=True, slots=True)
class Bounds:
    """What stays although nobody needs it: so many of the newest records, and those that are younger."""

    records: int
    seconds: float


class Follower(NamedTuple):
    """A replica for which the log is kept: all up to record `at` is on its disk.

    `stalled`: nothing was heard of it for long.
    """

    name: str
    at: int
    stalled: bool = False


class Standing(NamedTuple):
    """Where one partition stands, as indexes of records; they go on from one epoch to the next.

    `archived`, `covered` (by a verified generation of each projection) and `aged` (older than the bound) are the last
    record of which that is true, 0 if of none.
    """

    first: int
    head: int
    archived: int
    covered: int
    aged: int
    followers: tuple[Follower, ...] = ()


class Verdict(NamedTuple):
    """The record up to which the server may forget the partition (0: keep all), and who keeps what follows."""

    up_to: int
    held_by: str
    held: int
    """Records that stay only because of `held_by`, and of others that stand where it does."""


def verdict(standing: Standing, bounds: Bounds, *, pressed: bool = False) -> Verdict:
    """Decide. When the disk presses, the bounds do not count; what is needed stays in any case."""
    limits = sorted(_limits(standing, bounds, pressed=pressed))
    up_to, held_by = limits[0]
    others = next((limit for limit, _ in limits if limit > up_to), up_to)
    end = others if held_by == NEWEST else min(others, standing.head - 1)
    held = max(0, end - max(up_to, standing.first - 1))
    worth = 1 if pressed else max(1, bounds.records // PURGE_SHARE)
    return Verdict(up_to if up_to - standing.first + 1 >= worth else 0, held_by, held)


def to_evict(standing: Standing) -> tuple[str, ...]:
    """Return the stalled replicas that alone keep records in the log: what goes first when the disk is full."""
    others = min(limit for limit, _ in _needed(standing._replace(followers=_heard(standing))))
    blocking = [one for one in standing.followers if one.stalled and one.at < others]
    return tuple(one.name for one in blocking if others >= standing.first)


def _heard(standing: Standing) -> tuple[Follower, ...]:
    return tuple(one for one in standing.followers if not one.stalled)


def _needed(standing: Standing) -> Iterator[tuple[int, str]]:
    """Yield, for each who needs records, the last one that he does not need."""
    yield standing.head - 1, NEWEST
    yield standing.archived, "archive"
    yield standing.covered, "generation"
    for one in standing.followers:
        yield one.at, f"replica {one.name}"


def _limits(standing: Standing, bounds: Bounds, *, pressed: bool) -> Iterator[tuple[int, str]]:
    yield from _needed(standing)
    if not pressed:
        yield standing.head - bounds.records, "FORGE_LOG_RETENTION_RECORDS"
        yield standing.aged, "FORGE_LOG_RETENTION_S"
