"""When to ask again, and how long to wait before."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Every request of this API can be repeated safely, so all that says "not now" is repeated: 408 is what a
# node answers that is being stopped, 502 and 504 what a proxy answers while a node starts.
RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Retry:
    """How often one request is repeated, and for how long at most.

    `attempts` counts the first one. `total_s` bounds the waits of a request that the node refuses for now,
    `unreachable_s` those of a request that gets no answer: a full queue is worth a longer wait than a dead
    node. Waits grow from `base_s` to `cap_s`.
    """

    attempts: int = 6
    total_s: float = 60.0
    unreachable_s: float = 10.0
    base_s: float = 0.2
    cap_s: float = 15.0

    def wait_s(
        self, failures: int, asked_s: float | None, draw: Callable[[float, float], float] = random.uniform
    ) -> float:
        """Return how long to wait after the `failures`-th failure: exponential with full jitter.

        `asked_s` is the server's `Retry-After`; the wait is never shorter, and the jitter comes on top, so
        that clients that were sent away together do not come back together.
        """
        ceiling = min(self.cap_s, self.base_s * 2 ** min(failures - 1, 30))
        if asked_s is None:
            return draw(0.0, ceiling)
        return asked_s + draw(0.0, min(ceiling, max(self.base_s, asked_s)))


NO_RETRY = Retry(attempts=1)


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Read a `Retry-After` header, seconds or HTTP date; None if there is none or it makes no sense."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
