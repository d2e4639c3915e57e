"""How a replica is doing."""

from dataclasses import dataclass
from typing import Literal

from schemas.ids import Position

State = Literal["bootstrapping", "catching_up", "live", "stalled", "needs_reseed"]
"""`live`: nothing was missing a moment ago. `stalled`: the node cannot be reached, or the disk not written."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where a replica stands, and where its node stood when it was last heard of; `why` says what is in its way."""

    state: State
    position: Position | None = None
    head: Position | None = None
    why: str = ""
    reseeds: int = 0

    @property
    def lag_records(self) -> int | None:
        """How many records are missing, None if that is not known."""
        if self.position is None or self.head is None:
            return None
        return max(0, self.head.index - self.position.index)
