"""What a fault test measured: printed, as `benchmarks/durability.py` reads it."""

import json
import math
import statistics
from dataclasses import dataclass, field

from tests.acceptance.uploads import Uploads


@dataclass(slots=True)
class Figures:
    """What happened in one test, in monotonic seconds; the seed is printed at once.

    `moments` are those of the faults; `starts_s` tells how long each start took until /readyz said yes.
    """

    name: str
    seed: int
    moments: list[float] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        print(f"{self.name}: seed={self.seed}")

    def report(self, uploads: Uploads) -> None:
        """Print the figures as one line of name and JSON; call it when nothing turned out to be lost."""
        rounds = zip(self.moments, [*self.moments[1:], math.inf], strict=True)
        recoveries = [s for since, until in rounds if (s := uploads.recovery_s(since, until)) is not None]
        figures = {
            "seed": self.seed,
            "faults": len(self.moments),
            "uploads_acknowledged": uploads.acks,
            "files_accepted": len(uploads.accepted),
            "files_lost": 0,
            "attempts_repeated": uploads.retries,
            "recovery_s": _spread(recoveries),
            "start_s": _spread(self.starts_s),
        }
        print(f"{self.name}: {json.dumps(figures)}")


def _spread(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    return {"median": round(statistics.median(seconds), 2), "longest": round(max(seconds), 2)}
