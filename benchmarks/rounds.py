"""What is kept of several rounds."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def medians(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure."""
    return {key: round(statistics.median(one[key] for one in rounds), 4) for key in rounds[0]}
