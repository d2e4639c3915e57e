"""The rule of what may leave the log, against a model of who needs what, through random schedules."""

import os
import random
from dataclasses import dataclass, field

import pytest

from workers.log_retention.rule import Bounds, Follower, Standing, to_evict, verdict

SCHEDULES = 10_000
STEPS = 24
TTL_S, STALLED_S = 50, 20
SEED = int(os.environ.get("FORGE_TEST_SEED", "20261128"))


@dataclass
class ModelReplica:
    """A replica in the model: what it has, and when it said so."""

    index: int
    heard_at: float
    given_up: bool = False

    def needs(self, record: int, now: float) -> bool:
        """Say whether the log must keep a record for it."""
        return not self.given_up and now - self.heard_at < TTL_S and record > self.index


@dataclass
class Model:
    """A partition as sets of records, and everybody who needs some of them; it knows nothing of the rule."""

    rng: random.Random
    bounds: Bounds
    cap: int
    now: float = 0.0
    written: list[float] = field(default_factory=list)  # when each record was, from index 1
    server: set[int] = field(default_factory=set)
    archived: int = 0
    covered: int = 0
    replicas: dict[str, ModelReplica] = field(default_factory=dict)
    evicted: int = 0
    purged: int = 0

    @property
    def head(self) -> int:
        return len(self.written)

    def needed(self, record: int) -> bool:
        """Say whether somebody needs a record on the server, whatever the disk says."""
        held = any(one.needs(record, self.now) for one in self.replicas.values())
        return record == self.head or record > self.archived or record > self.covered or held

    def wanted(self, record: int) -> bool:
        """Say whether the operator wants it to stay as long as there is room."""
        return record > self.head - self.bounds.records or self.written[record - 1] > self.now - self.bounds.seconds

    def happen(self) -> None:
        """Let something happen to the partition or to somebody who follows it."""
        rng = self.rng
        match rng.choice(("write", "write", "archive", "generation", "join", "report", "report", "leave", "wait")):
            case "write":
                for _ in range(rng.randint(1, 9)):
                    self.written.append(self.now)
                    self.server.add(self.head)
            case "archive":
                self.archived = rng.randint(self.archived, self.head)
            case "generation":
                self.covered = rng.randint(self.covered, max(self.covered, self.archived))
            case "join" if len(self.replicas) < 3:
                self.replicas[f"r{len(self.replicas)}"] = ModelReplica(rng.randint(0, self.head), self.now)
            case "report" if self.replicas:
                one = rng.choice(list(self.replicas.values()))
                if not one.given_up:
                    one.index, one.heard_at = rng.randint(one.index, self.head), self.now
            case "leave" if self.replicas:
                one = rng.choice(list(self.replicas.values()))
                one.given_up = rng.random() < 0.5
            case _:
                self.now += rng.choice((1, 5, 30, 60))

    def standing(self) -> Standing:
        """Return what a worker would find out."""
        aged = sum(at <= self.now - self.bounds.seconds for at in self.written)
        followers = tuple(
            Follower(name, one.index, self.now - one.heard_at >= STALLED_S)
            for name, one in self.replicas.items()
            if not one.given_up and self.now - one.heard_at < TTL_S
        )
        return Standing(min(self.server), self.head, self.archived, self.covered, aged, followers)

    def retain(self) -> None:
        """Do what the worker does, and compare it with what each record says of itself."""
        pressed = self.cap > 0 and len(self.server) > self.cap
        self._purge(pressed=pressed)
        if pressed and len(self.server) > self.cap:
            for name in to_evict(self.standing()):
                one = self.replicas[name]
                assert self.now - one.heard_at >= STALLED_S, f"{name} was heard a moment ago"
                one.given_up = True
                self.evicted += 1
            self._purge(pressed=True)
            stalled = any(self.now - one.heard_at >= STALLED_S for one in self.replicas.values() if not one.given_up)
            first = min(self.server)
            assert self.needed(first) or stalled, "over the cap with a record that nobody needs"

    def _purge(self, *, pressed: bool) -> None:
        before = set(self.server)
        prefix: list[int] = []
        for record in sorted(before):
            if self.needed(record) or (not pressed and self.wanted(record)):
                break
            prefix.append(record)
        found = verdict(self.standing(), self.bounds, pressed=pressed)
        gone = {record for record in before if record <= found.up_to}
        worth = 1 if pressed else max(1, self.bounds.records // 8)
        assert gone == (set(prefix) if len(prefix) >= worth else set()), (found, self)
        self.server -= gone
        self.purged += len(gone)
        assert self.head in self.server


def schedule(seed: int) -> Model:
    """Run one schedule; raise `AssertionError` at the first record that went although somebody needed it."""
    rng = random.Random(seed)
    bounds = Bounds(rng.choice((1, 1, 4, 16)), rng.choice((0, 10, 60)))
    model = Model(rng, bounds, cap=rng.choice((0, 3, 10)))
    for _ in range(STEPS):
        model.happen()
        if model.written and rng.random() < 0.5:
            model.retain()
    return model


def test_it_is_said_who_holds_the_log_when_two_do_at_the_same_record() -> None:
    """K4.2: two that went away together hold as much as one does; what nobody holds is told of nobody."""
    bounds = Bounds(5, 0)
    gone = (Follower("b", 10, stalled=True), Follower("a", 10, stalled=True))

    both = verdict(Standing(1, 100, 100, 60, 100, gone), bounds)
    one = verdict(Standing(1, 100, 100, 60, 100, gone[:1]), bounds)

    assert both == (10, "replica a", 50)
    assert one == (10, "replica b", 50)
    assert verdict(Standing(1, 100, 100, 100, 100, (Follower("a", 99),)), bounds, pressed=True).held == 0


@pytest.mark.parametrize("part", range(4))
def test_what_somebody_needs_stays_and_the_rest_may_go(part: int) -> None:
    """K4.2: 10,000 schedules of writers, archive, generations, replicas, time and disk.

    The newest record of a partition never goes; a replica that died holds up nobody after its time to live; one that
    stalls is evicted only for the disk, and one that is heard never.
    """
    print(f"seed {SEED}, set FORGE_TEST_SEED to repeat")
    share = SCHEDULES // 4
    models = [schedule(SEED + number) for number in range(part * share, (part + 1) * share)]
    assert sum(model.purged for model in models) > share
    assert sum(model.evicted for model in models) > 0


def test_it_is_said_who_keeps_the_log() -> None:
    """K4.2: the first who still needs something, and how much goes without him."""
    standing = Standing(1, 100, archived=90, covered=80, aged=95, followers=(Follower("laptop", 30),))
    found = verdict(standing, Bounds(1, 0))
    assert found == (30, "replica laptop", 50)
    assert verdict(standing._replace(covered=0), Bounds(1, 0)) == (0, "generation", 30)
    assert verdict(standing, Bounds(96, 0)) == (0, "FORGE_LOG_RETENTION_RECORDS", 26)
    assert verdict(standing, Bounds(96, 0), pressed=True).up_to == 30
    everything = Standing(1, 100, archived=100, covered=100, aged=100)
    assert verdict(everything, Bounds(1, 0)) == (99, "FORGE_LOG_RETENTION_RECORDS", 0)
    assert verdict(everything, Bounds(1, 0), pressed=True) == (99, "the newest record", 1)
    assert to_evict(standing) == ()
    assert to_evict(standing._replace(followers=(Follower("laptop", 30, stalled=True),))) == ("laptop",)
    assert to_evict(standing._replace(first=85, followers=(Follower("laptop", 30, stalled=True),))) == ()
