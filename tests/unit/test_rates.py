"""Token buckets: for everybody, for each token, for each document, and one for all whose token is unknown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import rates as rates_module
from api.auth import Principal
from api.rates import Rate, Rates
from schemas.problems import Refusal

ONE, OTHER = Principal("token:one"), Principal("token:other")


class Clock:
    """Seconds that a test decides about."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_is_let_in_and_then_so_many_per_second(clock: Clock) -> None:
    """P1.13: 429 with the seconds after which it goes on."""
    rates = Rates(token=Rate.of(2, 3), clock=clock)
    for left in (2, 1, 0):
        headers = rates.admit_caller(ONE)
        assert headers["ratelimit-policy"] == '"token";q=3;w=2'
        assert headers["ratelimit"].startswith(f'"token";r={left};t=')
    with pytest.raises(Refusal) as refused:
        rates.admit_caller(ONE)
    assert refused.value.problem.status == 429
    assert refused.value.problem.retry_after_s == 1
    assert refused.value.headers["ratelimit"] == '"token";r=0;t=2'
    clock.now += 0.5
    rates.admit_caller(ONE)
    with pytest.raises(Refusal):
        rates.admit_caller(ONE)


def test_one_token_does_not_use_up_what_another_has(clock: Clock) -> None:
    """P1.13: and what is refused to one costs the others nothing."""
    rates = Rates(token=Rate.of(1, 1), overall=Rate.of(1, 2), clock=clock)
    rates.admit_caller(ONE)
    for _ in range(10):
        with pytest.raises(Refusal, match="token"):
            rates.admit_caller(ONE)
    rates.admit_caller(OTHER)
    with pytest.raises(Refusal, match="global"):
        rates.admit_caller(Principal("token:third"))


def test_unknown_tokens_share_one_bucket(clock: Clock) -> None:
    """P1.13, G-27: guesses make no bucket of their own, and do not hold up those who are known."""
    rates = Rates(unknown=Rate.of(1, 2), token=Rate.of(1, 1), clock=clock)
    rates.admit_unknown()
    rates.admit_unknown()
    with pytest.raises(Refusal, match="unknown"):
        rates.admit_unknown()
    rates.admit_caller(ONE)


def test_a_document_has_a_bucket_for_all_its_callers(clock: Clock) -> None:
    rates = Rates(document=Rate.of(1, 1), token=Rate.of(10, 10), clock=clock)
    headers = rates.admit_document("notes", rates.admit_caller(ONE))
    assert headers["ratelimit-policy"] == '"token";q=10;w=1, "document";q=1;w=1'
    assert headers["ratelimit"] == '"token";r=9;t=1, "document";r=0;t=1'
    with pytest.raises(Refusal, match="document"):
        rates.admit_document("notes", rates.admit_caller(OTHER))
    rates.admit_document("other", {})
    assert rates.admit_document("*", {}) == {}


def test_the_buckets_are_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """PR7, P1.13: the one that was used longest ago goes first."""
    monkeypatch.setattr(rates_module, "BUCKETS_MAX", 100)
    rates = Rates(token=Rate.of(1, 1), clock=clock)
    assert rates._token is not None
    for number in range(1000):
        rates.admit_caller(Principal(f"token:{number}"))
        assert len(rates._token) <= 100
    with pytest.raises(Refusal):
        rates.admit_caller(Principal("token:999"))
    rates.admit_caller(Principal("token:0"))


def test_without_limits_nothing_is_counted_or_said() -> None:
    rates = Rates()
    assert rates.admit_document("notes", rates.admit_caller(ONE)) == {}
    rates.admit_unknown()


@pytest.mark.parametrize(
    ("per_s", "burst", "rate"), [(0, 5, None), (5, 0, (5, 10)), (0.1, 0, (0.1, 1)), (5, 7, (5, 7))]
)
def test_a_burst_is_two_seconds_worth_unless_it_is_said(
    per_s: float, burst: int, rate: tuple[float, int] | None
) -> None:
    assert Rate.of(per_s, burst) == rate


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60), st.floats(0.1, 20), st.integers(1, 10))
def test_never_more_than_the_burst_and_the_rate_allow(pauses: list[float], per_s: float, burst: int) -> None:
    """PR7, P1.13: in any window that begins with the first request."""
    clock = Clock()
    rates, start, admitted = Rates(token=Rate(per_s, burst), clock=clock), clock.now, 0
    for pause in pauses:
        clock.now += pause
        try:
            rates.admit_caller(ONE)
        except Refusal as refused:
            wait_s = refused.problem.retry_after_s
            assert wait_s is not None
            assert wait_s >= 1
        else:
            admitted += 1
        assert admitted <= burst + (clock.now - start) * per_s + 1e-6
    clock.now += (1 + burst) / per_s
    rates.admit_caller(ONE)
