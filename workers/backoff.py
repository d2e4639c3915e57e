"""How long to wait before the next try."""

import random

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
