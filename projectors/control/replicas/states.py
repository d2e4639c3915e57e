"""In which state a replica is: a function of what was heard of it, of the log, and of limits."""

from dataclasses import dataclass
from typing import NamedTuple

from projectors.control.replicas.rows import EVICTED, RECALLED
from schemas.ids import Position
from schemas.replicas import ReplicaState

LIVE_S = 1.0
"""A replica that lacks only what is younger is live: that is on its way."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: behind by more is lagging, silent for longer is stalled, and after the time to live the log goes on."""

    lag_s: float
    stalled_s: float
    ttl_s: float


class Standing(NamedTuple):
    """What is known of a replica: where it stands, what was decided, for how long nothing was heard of it.

    `fenced` says that it belongs to another history than its document.
    """

    position: Position
    silent_s: float
    bootstrapping: bool = False
    decided: str = ""
    fenced: bool = False


class Reach(NamedTuple):
    """What its document can give: the first and the last record, and the age of the first one that it lacks."""

    floor: Position
    head: Position
    behind_s: float


def state(standing: Standing, reach: Reach, limits: Limits) -> ReplicaState:
    """Return the state: first what cannot mend itself, then what is silent, then how far it is behind."""
    if standing.decided == EVICTED:
        return "evicted"
    if standing.fenced or _beyond(standing.position, reach.head):
        return "fenced"
    if standing.decided == RECALLED or _gone(standing.position, reach.floor):
        return "needs_reseed"
    if standing.silent_s >= limits.stalled_s:
        return "stalled"
    if standing.bootstrapping:
        return "bootstrapping"
    if standing.position.index >= reach.head.index or reach.behind_s <= LIVE_S:
        return "live"
    return "lagging" if reach.behind_s > limits.lag_s else "catching_up"


def holds(standing: Standing, limits: Limits) -> bool:
    """Say whether the log is kept for a replica: it can go on from where it stands, and was heard not long ago."""
    return not standing.decided and not standing.fenced and standing.silent_s < limits.ttl_s


def _beyond(position: Position, head: Position) -> bool:
    """Say whether a position lies where its document never was; indexes go on from one epoch to the next."""
    return position.epoch > head.epoch or position.index > head.index


def _gone(position: Position, floor: Position) -> bool:
    """Say whether the record after `position` lies before the first one that there is."""
    return position.index + 1 < floor.index
