"""What became of one partition when what is here was compared with the archive."""

from dataclasses import dataclass, field
from enum import StrEnum


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

    `unarchived` says that the log here has more of it than the archive.
    """

    partition: str
    done: Done
    position: str
    time: str = ""
    size_bytes: int = 0
    generations: dict[str, str] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    unarchived: bool = False
    problem: str | None = None
