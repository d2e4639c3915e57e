"""The limit of open files: raised as far as it may be, never lowered."""

import resource
from collections.abc import Iterator

import pytest

from forge.doctor.check import State
from forge.doctor.machine import handles_check
from forge.open_files import open_files_needed, raise_open_files


@pytest.fixture
def hard() -> Iterator[int]:
    """Give the hard limit, and put the soft one back at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_soft_limit_is_raised_to_what_a_node_needs(hard: int) -> None:
    """PR7: a login shell's 1,024 files are not the bound of a node."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert raise_open_files(100, 10) == open_files_needed(100, 10) == 1254
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1254, hard)


def test_a_limit_that_is_high_enough_stays(hard: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    assert raise_open_files(10, 1) == 2000
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (2000, hard)


def test_more_than_the_hard_limit_is_not_asked_for(hard: int) -> None:
    if hard == resource.RLIM_INFINITY:
        pytest.skip("there is no hard limit here")
    assert raise_open_files(hard, 1) == hard
    assert handles_check(hard, 1).state is State.WARN
    assert handles_check(10, 1).state is State.OK
