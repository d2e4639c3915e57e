"""How many callers without a token may wait at the same time: connections are what they could use up for all others."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from api.auth import ANONYMOUS
from api.client_address import rate_key
from schemas.problems import TOO_MANY_REQUESTS, Refusal

WAITING_MAX = 1024
"""So many of one address."""
RETRY_AFTER_S = 10


class Visitors:
    """Counts them by address."""

    def __init__(self) -> None:
        self._waiting: Counter[str] = Counter()

    @contextmanager
    def entered(self, caller: str, address: str) -> Iterator[None]:
        """Count a caller who has no token for as long as he waits; `Refusal` (429) if there are too many."""
        if caller != ANONYMOUS:
            yield
            return
        key = rate_key(address)
        if self._waiting[key] >= WAITING_MAX:
            why = f"{WAITING_MAX} requests without a token wait already that came from this address"
            raise Refusal(TOO_MANY_REQUESTS.problem(why, retry_after_s=RETRY_AFTER_S))
        self._waiting[key] += 1
        try:
            yield
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
