"""What a partition tells: to callers their answers, to followers in this process what was committed."""

from typing import Any, NamedTuple

from schemas.facts import Fact
from schemas.ids import PartitionId, Position


class Answer(NamedTuple):
    """What became of a command: its answer, and the position at which everybody can see it."""

    position: Position
    value: Any


Outcome = Exception | tuple[Position | None, Any]
"""Why a command failed, or its answer with the position it was given at before (None: in this record)."""


class Committed(NamedTuple):
    """News of one record. Without facts: the partition stands there, by whatever records, for example when it opens."""

    partition: PartitionId
    position: Position
    facts: list[Fact]
