"""Waiting longer each time, with jitter, up to a bound."""

import random
from collections.abc import Iterator


def delays(*, base_s: float, cap_s: float) -> Iterator[float]:
    """Yield waits without end: each drawn from the upper half of a range that doubles from `base_s` to `cap_s`."""
    ceiling = base_s
    while True:
        yield ceiling * random.uniform(0.5, 1)
        ceiling = min(ceiling * 2, cap_s)
