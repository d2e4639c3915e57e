"""What a standby does not have yet is not wrong: its writer may have it."""

from collections.abc import Iterator
from contextlib import contextmanager

from events.write_guard import WriteGuard
from schemas.problems import INVALID_SQL, NO_SYSTEM_TABLE, NOT_HERE_YET, Refusal

_MISSING = ("no such table", "no such column", "has no column named", "no such view", "no such index")


@contextmanager
def asking_the_writer(standby: WriteGuard | None) -> Iterator[None]:
    """On a `standby` refuse SQL that names what is not here with 503 instead of 400."""
    try:
        yield
    except Refusal as refusal:
        problem = refusal.problem
        of_names = problem.type in (INVALID_SQL.uri, NO_SYSTEM_TABLE.uri)
        if standby is None or not of_names or not any(said in problem.detail for said in _MISSING):
            raise
        why = f"{problem.detail}; it may not have come here yet: {standby.closed_because}"
        raise Refusal(NOT_HERE_YET.problem(why)) from refusal
