"""What a standby does not have yet is not wrong: its writer may have it."""

from collections.abc import Iterator
from contextlib import contextmanager

from events.write_guard import WriteGuard
from schemas.problems import INVALID_SQL, NO_SYSTEM_TABLE, NOT_HERE_YET, Problem, Refusal

_MISSING = ("no such table", "no such column", "has no column named", "no such view", "no such index")


def is_missing(problem: Problem) -> bool:
    """Say whether SQL was refused because it names what is not here."""
    of_names = problem.type in (INVALID_SQL.uri, NO_SYSTEM_TABLE.uri)
    return of_names and any(said in problem.detail for said in _MISSING)


@contextmanager
def asking_the_writer(standby: WriteGuard | None) -> Iterator[None]:
    """On a `standby` refuse SQL that names what is not here with 503 instead of 400."""
    try:
        yield
    except Refusal as refusal:
        problem = refusal.problem
        if standby is None or not is_missing(problem):
            raise
        why = f"{problem.detail}; it may not have come here yet: {standby.closed_because}"
        raise Refusal(NOT_HERE_YET.problem(why)) from refusal
