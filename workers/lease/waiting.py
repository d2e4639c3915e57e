"""How long to wait for a lease that somebody else holds: by what is seen of it, and by one's own clock alone."""

from schemas.writer_lease import LeaseRecord
from workers.lease.object import Seen

BACKOFF_S = (2.0, 4.0, 8.0, 16.0, 30.0)
LOOKS_MIN = 6  # while one lease lasts: else a takeover came long after its end


def backoff(attempt: int) -> float:
    """Return how long to wait after attempt number `attempt`, from 0."""
    return BACKOFF_S[max(0, min(attempt, len(BACKOFF_S) - 1))]


class Watch:
    """What was seen of the lease of somebody else.

    A version of the object was stored before it is first seen, and its holder counts from before it was sent. So it is
    over once its duration has passed since we saw it, whatever the clocks of the two machines say or jump to.
    """

    def __init__(self) -> None:
        self._seen: Seen | None = None
        self._since = 0.0

    def see(self, seen: Seen, now: float) -> float:
        """Note what was read, `now` being a time after that; return for how long it may still be valid."""
        if self._seen is None or self._seen.tag != seen.tag:
            self._seen, self._since = seen, now
        return max(0.0, self._since + seen.record.duration_s - now)


def pause(attempt: int, holder: LeaseRecord, remaining_s: float) -> float:
    """Return how long to wait until the next look, so that it is soon after the lease ends or changes."""
    return min(backoff(attempt), remaining_s, max(holder.duration_s / LOOKS_MIN, 0.05))
