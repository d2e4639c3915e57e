"""What became of one partition when what is here was compared with the archive."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from schemas.ids import PartitionId, Position


class Done(StrEnum):
    """What was done about a partition."""

    NOTHING = "current"
    """It had all that is archived."""
    LOCAL = "not archived"
    """Nothing of it is archived."""
    CAUGHT_UP = "caught up"
    RESTORED = "restored"
    SET_ASIDE = "set aside, restored"
    """What was here is of another history and was kept; what is archived took its place."""
    REFUSED = "refused"
    """Nothing was changed; the problem says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a partition stands now, when the last record there was written (empty: unknown), and what was done.

    `unarchived` says that the log here has more of it than the archive, `untold` that the archive has more than its
    position there says.
    """

    partition: str
    done: Done
    position: str
    time: str = ""
    size_bytes: int = 0
    generations: dict[str, str] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    unarchived: bool = False
    untold: bool = False
    problem: str | None = None

    @property
    def as_archived(self) -> bool:
        """Whether the log here ends where the archive ends."""
        return self.done not in (Done.LOCAL, Done.REFUSED) and not self.unarchived


def archived_ends(outcomes: Mapping[PartitionId, Outcome]) -> dict[PartitionId, Position]:
    """Return where those partitions stand that are here as they are archived."""
    return {one: Position.parse(outcome.position) for one, outcome in outcomes.items() if outcome.as_archived}
