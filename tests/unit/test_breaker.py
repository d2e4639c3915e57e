"""The circuit breaker and the waits between tries."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from events.backoff import delay
from workers.breaker import Breaker, Permit, Refused, State


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def opened(clock: Clock) -> tuple[Breaker, Permit]:
    """Return a breaker that just opened, and a permit from before."""
    breaker = Breaker(clock, random.Random(1), failures_max=2)
    early = permitted(breaker)
    for _ in range(2):
        breaker.unreachable(permitted(breaker))
    return breaker, early


def permitted(breaker: Breaker) -> Permit:
    answer = breaker.ask()
    assert isinstance(answer, Permit)
    return answer


def state(breaker: Breaker) -> State:
    """Return its state as it is now: a type checker takes a property for what it was when it was last compared."""
    return breaker.state


def refused(breaker: Breaker) -> float:
    answer = breaker.ask()
    assert isinstance(answer, Refused)
    return answer.retry_after_s


def test_it_opens_after_failures_in_a_row_only() -> None:
    """G19."""
    breaker = Breaker(Clock(), random.Random(1), failures_max=3)
    for _ in range(5):
        breaker.unreachable(permitted(breaker))
        breaker.unreachable(permitted(breaker))
        breaker.reached(permitted(breaker))
    assert state(breaker) is State.CLOSED

    for _ in range(3):
        breaker.unreachable(permitted(breaker))

    assert state(breaker) is State.OPEN
    assert 0 < refused(breaker) <= 1


def test_after_the_wait_exactly_one_probe_goes_through() -> None:
    """G19."""
    clock = Clock()
    breaker, _ = opened(clock)
    clock.now_s += refused(breaker)
    assert state(breaker) is State.HALF_OPEN

    probe = permitted(breaker)
    assert refused(breaker) > 0
    breaker.reached(probe)

    assert state(breaker) is State.CLOSED
    permitted(breaker)


def test_a_failed_probe_opens_it_again_and_longer_up_to_the_cap() -> None:
    clock = Clock()
    breaker, _ = opened(clock)
    waits = []
    for _ in range(40):
        waits.append(refused(breaker))
        clock.now_s += waits[-1]
        breaker.unreachable(permitted(breaker))

    assert max(waits[:2]) <= 2
    assert max(waits) > 15
    assert all(0.5 <= wait_s <= 30 for wait_s in waits)


def test_late_failures_of_one_outage_do_not_lengthen_it() -> None:
    clock = Clock()
    breaker, early = opened(clock)
    wait_s = refused(breaker)

    for _ in range(20):
        breaker.unreachable(early)

    assert refused(breaker) == wait_s


def test_a_late_answer_closes_it() -> None:
    breaker, early = opened(Clock())

    breaker.reached(early)

    assert state(breaker) is State.CLOSED


def test_an_unused_or_lost_probe_lets_the_next_caller_probe() -> None:
    clock = Clock()
    breaker, _ = opened(clock)
    clock.now_s += refused(breaker)

    breaker.unused(permitted(breaker))
    lost = permitted(breaker)
    clock.now_s += refused(breaker)
    second = permitted(breaker)

    breaker.unreachable(lost)
    assert state(breaker) is State.OPEN  # waits for the second probe
    breaker.reached(second)
    assert state(breaker) is State.CLOSED


class Outage(RuleBasedStateMachine):
    """Callers, failures and time in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(self.clock, random.Random(3), failures_max=2, cap_s=30, probe_s=100)
        self.out: list[Permit] = []
        self.probes: list[Permit] = []
        self.row = 0

    @rule()
    def ask(self) -> None:
        before = state(self.breaker)
        answer = self.breaker.ask()
        assert isinstance(answer, Refused) == (before is State.OPEN)
        if isinstance(answer, Permit):
            self.out.append(answer)
            if before is State.HALF_OPEN:
                self.probes.append(answer)
                assert state(self.breaker) is State.OPEN  # nobody else until it is back
        else:
            assert 0 < answer.retry_after_s <= 100

    @precondition(lambda self: self.out)
    @rule(data=st.data(), verdict=st.sampled_from(["reached", "unreachable", "unused"]))
    def give_back(self, data: st.DataObject, verdict: str) -> None:
        permit = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        before = state(self.breaker)
        getattr(self.breaker, verdict)(permit)
        match verdict:
            case "reached":
                assert state(self.breaker) is State.CLOSED
                self.row = 0
            case "unreachable" if before is State.CLOSED:
                self.row += 1
                assert state(self.breaker) is (State.OPEN if self.row >= 2 else State.CLOSED)
            case _:
                assert (state(self.breaker) is State.CLOSED) == (before is State.CLOSED)

    @rule(seconds=st.floats(0, 60))
    def pass_time(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @invariant()
    def it_never_stays_shut(self) -> None:
        """Whatever was lost, after the longest wait somebody may try."""
        if state(self.breaker) is State.OPEN:
            saved, self.clock.now_s = self.clock.now_s, self.clock.now_s + 100
            assert state(self.breaker) is State.HALF_OPEN
            self.clock.now_s = saved


TestOutage = Outage.TestCase


@given(st.integers(1, 10**9), st.floats(0.001, 10), st.floats(10, 1000), st.floats(0, 5), st.integers())
def test_a_delay_is_between_its_least_and_its_cap(
    attempt: int, base_s: float, cap_s: float, min_s: float, seed: int
) -> None:
    wait_s = delay(attempt, base_s=base_s, cap_s=cap_s, rng=random.Random(seed), min_s=min_s)

    assert min_s <= wait_s <= max(min_s, min(cap_s, base_s * 2 ** min(attempt - 1, 62)))
    assert wait_s == delay(attempt, base_s=base_s, cap_s=cap_s, rng=random.Random(seed), min_s=min_s)


def test_attempts_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="from 1"):
        delay(0, base_s=1, cap_s=2, rng=random.Random())
