"""What a node keeps in mind of replicas between two events of the control plane."""

from projectors.control.replicas.rows import ReplicaRow
from projectors.control.replicas.states import Limits, holds
from projectors.control.replicas.tracker import ReplicaTracker
from projectors.outcome import Committed
from schemas.ids import PartitionId, Position
from schemas.replicas import (
    FORGOTTEN_AFTER_S,
    REPLICAS_OF_DOCUMENT_MAX,
    ReplicaEvicted,
    ReplicaRecalled,
    ReplicaReport,
)

LIMITS = Limits(lag_s=60, stalled_s=90, ttl_s=3600)
ONE, OTHER = "0" * 15 + "1", "0" * 15 + "2"
LONG_AGO, LATER = "2020-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"


class World:
    """A tracker, the clock that it looks at, and the control plane that it notes in."""

    def __init__(self, *rows: ReplicaRow) -> None:
        self.now = 1000.0
        self.rows = list(rows)
        self.noted: list[ReplicaReport] = []
        self.tracker = ReplicaTracker(self._read, self._note, heartbeat_s=30, clock=lambda: self.now)

    async def _read(self) -> list[ReplicaRow]:
        return self.rows

    async def _note(self, reports: tuple[ReplicaReport, ...]) -> None:
        self.noted += reports

    def holds(self, replica_id: str = "a") -> bool:
        """Say whether the log is kept for a replica."""
        known = self.tracker.find("notes", replica_id)
        return known is not None and holds(known.standing(self.now), LIMITS)


def report(position: str, copy_id: str = ONE, *, name: str = "a") -> ReplicaReport:
    """Return a report."""
    return ReplicaReport(db_id="notes", replica_id=name, copy_id=copy_id, kind="file", position=position)


def row(position: str, copy_id: str = ONE, *, seen: str = LONG_AGO, decided: str = "") -> ReplicaRow:
    """Return what the control plane knows of one replica."""
    return ReplicaRow("notes", "a", copy_id, "file", Position.parse(position), False, "root", seen, seen, decided)


async def test_only_what_was_heard_is_noted_and_only_once() -> None:
    """K4.1: one event for all, and none while nobody says anything."""
    world = World()
    for name in ("a", "b"):
        world.tracker.heard(report("1.4", name=name))
    world.tracker.heard(report("1.2"))
    await world.tracker.note()
    assert [(one.replica_id, one.position) for one in world.noted] == [("a", "1.4"), ("b", "1.4")]
    await world.tracker.note()
    assert len(world.noted) == 2
    world.tracker.heard(report("1.4"))
    await world.tracker.note()
    assert len(world.noted) == 3


async def test_a_dead_replica_stops_holding_the_log_after_its_time_to_live() -> None:
    """K4.2: measured by a clock that nobody sets; of those that only the log knows, from the start of the node."""
    world = World(row("1.5"))
    await world.tracker.load()
    assert world.holds()
    world.now += LIMITS.ttl_s - 1
    assert world.holds()
    await world.tracker.load()  # which tells nothing new of it
    world.now += 1
    assert not world.holds()
    world.tracker.heard(report("1.5"))
    assert world.holds()
    world.now += FORGOTTEN_AFTER_S + 1
    world.rows = []
    await world.tracker.load()
    assert world.tracker.everyone() == []


async def test_what_another_node_heard_counts_too() -> None:
    """K4.1: nodes that share a log tell each other by its events, and no position goes back by that."""
    world = World(row("1.5"))
    await world.tracker.load()
    world.now += LIMITS.ttl_s
    world.rows = [row("1.9", seen=LATER)]
    await world.tracker.load()
    assert world.holds()
    known = world.tracker.find("notes", "a")
    assert known is not None
    assert known.position == Position(1, 9)
    world.tracker.heard(report("1.12"))
    world.rows = [row("1.10", seen=LATER)]
    await world.tracker.load()
    known = world.tracker.find("notes", "a")
    assert known is not None
    assert known.position == Position(1, 12)


async def test_what_was_decided_stays_decided_as_long_as_the_copy() -> None:
    """K4.3: also if rows are taken in that were read before it was decided."""
    for kind in (ReplicaEvicted, ReplicaRecalled):
        world = World(row("1.5"))
        await world.tracker.load()
        fact = kind(db_id="notes", replica_id="a", copy_id=ONE, reason="why not")
        world.tracker.committed(Committed(PartitionId("control"), Position(1, 9), [fact]))
        assert not world.holds()
        for seen in (LONG_AGO, LATER):
            world.rows = [row("1.5", seen=seen)]
            await world.tracker.load()
            assert not world.holds()
        heard = world.tracker.heard(report("1.9"))
        assert heard is not None
        assert (heard.decided != "", heard.reason, heard.position) == (True, "why not", Position(1, 5))
        await world.tracker.note()
        assert world.noted == []
        world.tracker.heard(report("1.9", OTHER))
        assert world.holds()
        world.rows = [row("1.5", decided="evicted")]  # of the copy before, and older than what was heard
        await world.tracker.load()
        assert world.holds()


async def test_a_replica_of_another_history_holds_nothing_until_it_has_another_copy() -> None:
    """K4.5: fenced."""
    world = World()
    world.tracker.heard(report("1.5"))
    world.tracker.fence(report("1.5", OTHER), "of another copy, which says nothing of this one")
    assert world.holds()
    world.tracker.fence(report("1.5"), "another history")
    assert not world.holds()
    world.tracker.heard(report("1.9", OTHER))
    assert world.holds()


def test_what_is_known_is_bounded() -> None:
    """PR7."""
    world = World()
    for number in range(REPLICAS_OF_DOCUMENT_MAX):
        assert world.tracker.heard(report("1.1", name=f"r{number}")) is not None
    assert world.tracker.heard(report("1.1", name="one-more")) is None
    assert world.tracker.heard(report("1.2", name="r0")) is not None
