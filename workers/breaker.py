"""A circuit breaker: after some failures to reach a worker nobody tries for a while, then one does."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from events.backoff import delay


class State(Enum):
    """What the breaker lets through: everything, nothing, or one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True, eq=False)
class Permit:
    """Leave to try once; give it back with `reached`, `unreachable` or `unused`."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Nobody may try for this long."""

    retry_after_s: float


class Breaker:
    """The breaker of one worker URL; not for use from several threads.

    closed -> open after `failures_max` failures in a row, for a time that doubles with each opening
    (jittered, from `base_s` to `cap_s`) -> half-open, where one permit is out -> closed when it reached
    the worker, open again when not. A probe that is not given back within `probe_s` is taken for lost.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        rng: random.Random,
        *,
        failures_max: int = 3,
        base_s: float = 1.0,
        cap_s: float = 30.0,
        probe_s: float = 150.0,
    ) -> None:
        self._clock, self._rng = clock, rng
        self._failures_max, self._base_s, self._cap_s, self._probe_s = failures_max, base_s, cap_s, probe_s
        self._failures = 0
        self._openings = 0
        self._until_s = 0.0
        self._probe: Permit | None = None

    @property
    def state(self) -> State:
        """The state at this moment."""
        if self._openings == 0:
            return State.CLOSED
        return State.OPEN if self._clock() < self._until_s else State.HALF_OPEN

    def ask(self) -> Permit | Refused:
        """Return a permit to try now, or how long to wait."""
        if self._openings == 0:
            return Permit()
        wait_s = self._until_s - self._clock()
        if wait_s > 0:
            return Refused(wait_s)
        # Until the probe is back, or lost, the others wait as if open.
        self._until_s = self._clock() + self._probe_s
        self._probe = Permit()
        return self._probe

    def reached(self, permit: Permit) -> None:
        """The worker answered, whatever it said: close. A late answer to an earlier try counts too."""
        self._failures = self._openings = 0
        self._probe = None

    def unreachable(self, permit: Permit) -> None:
        """The worker could not be reached. Only the probe counts while open: one outage, one opening."""
        if self._openings == 0:
            self._failures += 1
            if self._failures < self._failures_max:
                return
        elif permit is not self._probe:
            return
        self._openings += 1
        self._probe = None
        self._until_s = self._clock() + delay(
            self._openings, base_s=self._base_s, cap_s=self._cap_s, rng=self._rng, min_s=self._base_s / 2
        )

    def unused(self, permit: Permit) -> None:
        """The try did not happen or was cancelled: the next caller may probe."""
        if self._probe is not None and permit is self._probe:
            self._probe = None
            self._until_s = self._clock()
