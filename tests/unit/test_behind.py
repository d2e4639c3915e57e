"""A standby sends on to the writer who names a table that has not come there yet."""

import pytest

from api.behind import asking_the_writer
from events.write_guard import WriteGuard
from schemas.problems import BAD_REQUEST, INVALID_SQL, NO_SYSTEM_TABLE, NOT_HERE_YET, Problem, Refusal


def standby() -> WriteGuard:
    guard = WriteGuard()
    guard.close("this node is a standby: db-1 is the writer")
    return guard


@pytest.mark.parametrize(
    "problem",
    [
        INVALID_SQL.problem("no such table: note"),
        INVALID_SQL.problem("table note has no column named text"),
        NO_SYSTEM_TABLE.problem("no such table: messages"),
    ],
)
def test_what_is_not_here_yet_is_asked_of_the_writer(problem: Problem) -> None:
    """G30: 503, which clients try again, since nobody here knows whether it is wrong."""
    with pytest.raises(Refusal) as refused, asking_the_writer(standby()):
        raise Refusal(problem)
    assert (refused.value.problem.status, refused.value.problem.type) == (503, NOT_HERE_YET.uri)
    assert "writes" not in refused.value.problem.title  # a SELECT is refused with it too
    assert problem.detail in refused.value.problem.detail
    assert "db-1 is the writer" in refused.value.problem.detail


@pytest.mark.parametrize("problem", [INVALID_SQL.problem('near "SELEC": syntax error'), BAD_REQUEST.problem("no")])
def test_what_is_wrong_everywhere_is_refused_here(problem: Problem) -> None:
    with pytest.raises(Refusal) as refused, asking_the_writer(standby()):
        raise Refusal(problem)
    assert refused.value.problem == problem


def test_a_writer_knows_what_it_has() -> None:
    problem = INVALID_SQL.problem("no such table: note")
    with pytest.raises(Refusal) as refused, asking_the_writer(None):
        raise Refusal(problem)
    assert refused.value.problem == problem
