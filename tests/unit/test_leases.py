"""Leases as they are decided and folded: contention, the edge of expiry, rebuilding."""

import random
from collections.abc import Callable
from functools import partial

import pytest

from schemas.fences import Fence
from schemas.instants import later, parse_instant
from schemas.leases import HISTORY_MAX
from schemas.messages import PublishMessages
from schemas.problems import Refusal
from tests.document_history import NOW, content, new_document, rebuilt
from tests.typed_commands import MIGRATIONS, acquire, answer, publish, release, renew

CONTENDERS, ROUNDS = 50, 1000
TTL_S = 30


class Clock:
    """A moment that a test moves."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> str:
        """Return it."""
        return later(NOW, self.s)

    def reach(self, moment: str, more_s: float) -> None:
        """Go on to some time after a moment."""
        self.s = (parse_instant(moment) - parse_instant(NOW)).total_seconds() + more_s


def refused(ask: Callable[[], object]) -> int:
    """Return the status of a refusal."""
    with pytest.raises(Refusal) as error:
        ask()
    return error.value.problem.status


def fenced(fence: int) -> PublishMessages:
    """Return a command that rests on a lease."""
    return publish().model_copy(update={"fences": (Fence(resource="jobs/nightly", fence=fence),)})


def test_fifty_contenders_for_a_thousand_rounds() -> None:
    """P6.X, P6.5: one holder at a time, fences strictly increase, though holders vanish and the clock jumps."""
    rng, clock = random.Random(6), Clock()
    with new_document(MIGRATIONS) as document:
        document.clock = clock
        fences: list[int] = []
        free_from = ""
        for _ in range(ROUNDS):
            contenders = [acquire(owner=f"c{n}", token=f"t{n}", ttl_seconds=TTL_S) for n in range(CONTENDERS)]
            rng.shuffle(contenders)
            outcomes = document.decide(*contenders)
            granted = [one for one in outcomes if not isinstance(one, Exception)]
            assert len(granted) == 1
            held = granted[0][1]
            assert free_from <= later(held["expires_at"], -TTL_S)
            fences.append(held["fence"])
            number = held["owner"][1:]
            if rng.random() < 0.3:  # it is killed
                assert isinstance(document.decide(acquire(owner="early"))[0], Refusal)
                clock.reach(held["expires_at"], rng.choice([0, TTL_S, 3600]))
                free_from = held["expires_at"]
            else:
                clock.s += rng.choice([-600, -1, 0, 1, TTL_S - 1])
                with_luck = document.decide(
                    renew(owner=held["owner"], token=f"t{number}"),
                    acquire(owner="thief"),
                    release(owner=held["owner"], token=f"t{number}"),
                )
                assert isinstance(with_luck[1], Refusal)
                free_from = ""
        assert fences == list(range(1, ROUNDS + 1))
        with rebuilt(document) as copy:
            assert content(copy) == content(document.db)


def test_at_the_edge_of_expiry() -> None:
    """P8.7: until the last microsecond it is held, from then on it is over, for all alike."""
    clock = Clock()
    with new_document(MIGRATIONS) as document:
        document.clock = clock
        answer(document, acquire(ttl_seconds=10))
        clock.s = 9.999999
        assert refused(lambda: answer(document, acquire(owner="bob"))) == 409
        assert answer(document, fenced(1))
        assert answer(document, renew(ttl_seconds=10))["expires_at"] == later(NOW, 19.999999)
        clock.s = 19.999999
        assert refused(lambda: answer(document, renew())) == 404
        assert refused(lambda: answer(document, fenced(1))) == 412
        assert answer(document, acquire(owner="bob"))["fence"] == 2


def test_a_clock_that_goes_back_does_not_bring_a_lease_back() -> None:
    """P6.6, C2: the document's time never does."""
    clock = Clock()
    with new_document(MIGRATIONS) as document:
        document.clock = clock
        answer(document, acquire(ttl_seconds=10))
        clock.s = 10
        answer(document, publish())
        clock.s = -3600
        assert refused(lambda: answer(document, renew())) == 404
        assert answer(document, acquire(owner="bob"))["fence"] == 2


def test_who_is_behind_waits_also_when_it_is_free() -> None:
    """P6.2: unless it asks for what it was granted before."""
    with new_document(MIGRATIONS) as document:
        assert refused(lambda: answer(document, acquire(behind=2))) == 409
        first = answer(document, acquire(), command_id="k")
        assert answer(document, acquire(behind=2), command_id="k") == first


def test_a_rebuild_keeps_fences_beyond_the_history() -> None:
    """PR4, P6.4, P6.5: of a thousand leases the rows go, never the number."""
    with new_document(MIGRATIONS) as document:
        for _ in range(HISTORY_MAX + 3):
            answer(document, acquire())
            answer(document, release())
        assert document.db.execute("SELECT count(*), min(fence), max(fence) FROM leases").fetchall() == [
            (HISTORY_MAX, 4, HISTORY_MAX + 3)
        ]
        with rebuilt(document, at_a_time=7) as copy:
            assert content(copy) == content(document.db)
            assert copy.execute("SELECT fence FROM fencing_tokens").get == HISTORY_MAX + 3


def test_sql_cannot_lower_a_fence() -> None:
    """P6.5, P2.4: nor can it end a lease, with whatever rights."""
    with new_document(MIGRATIONS) as document:
        answer(document, acquire())
        for sql in (
            "UPDATE fencing_tokens SET fence = 0",
            "DELETE FROM fencing_tokens",
            "INSERT OR REPLACE INTO fencing_tokens VALUES ('jobs/nightly', 'x', 'x', 0, 'x', 'x')",
            "DELETE FROM leases",
            "DROP TABLE fencing_tokens",
            "ALTER TABLE fencing_tokens RENAME TO mine",
        ):
            assert refused(partial(document.sql, sql)) == 403
        assert answer(document, release())["released"]
        assert answer(document, acquire())["fence"] == 2
