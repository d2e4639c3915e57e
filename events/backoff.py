"""How long to wait before the next try: longer each time, with jitter, up to a bound."""

import random
from collections.abc import Iterator
from itertools import count

_EXPONENT_MAX = 62  # past this the cap rules anyway, and a float would overflow


def delay(attempt: int, *, base_s: float, cap_s: float, rng: random.Random, min_s: float = 0.0) -> float:
    """Return seconds to wait after failed attempt number `attempt` (from 1), with full jitter.

    Uniform between `min_s` and `base_s * 2 ** (attempt - 1)`, which is at most `cap_s`: many callers that
    failed together come back spread out. Pure but for what it draws from `rng`.
    """
    if attempt < 1:
        raise ValueError(f"attempts are counted from 1, not {attempt}")
    longest_s = min(cap_s, base_s * 2 ** min(attempt - 1, _EXPONENT_MAX))
    return rng.uniform(min(min_s, cap_s), max(longest_s, min(min_s, cap_s)))


def delays(*, base_s: float, cap_s: float) -> Iterator[float]:
    """Yield the waits after attempts 1, 2, 3 and so on, without end; none shorter than half of `base_s`."""
    rng = random.Random()
    return (delay(attempt, base_s=base_s, cap_s=cap_s, rng=rng, min_s=base_s / 2) for attempt in count(1))
