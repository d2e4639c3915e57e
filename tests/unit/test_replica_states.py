"""In which state a replica is, what holds the log, and what the control plane remembers of reports."""

from typing import Any

import pytest

from projectors.control.replicas.rows import ReplicaRow, every
from projectors.control.replicas.states import Limits, Reach, Standing, holds, state
from schemas.control import CreateDocument, DeleteDocument
from schemas.facts import Command
from schemas.ids import Position
from schemas.problems import Refusal
from schemas.replicas import (
    FORGOTTEN_AFTER_S,
    REPLICAS_OF_DOCUMENT_MAX,
    EvictReplica,
    NoteReplicas,
    RecallReplica,
    ReplicaReport,
    ReplicaState,
)
from tests.unit.test_control_domain import fresh, run

LIMITS = Limits(lag_s=60, stalled_s=90, ttl_s=3600)
ONE, OTHER = "0" * 15 + "1", "0" * 15 + "2"
AT = Position(1, 40)
HEAD = Reach(floor=Position(1, 10), head=Position(1, 50), behind_s=5.0)


@pytest.mark.parametrize(
    ("standing", "reach", "expected"),
    [
        (Standing(AT, 0, bootstrapping=True), HEAD, "bootstrapping"),
        (Standing(AT, 0), HEAD, "catching_up"),
        (Standing(AT, 0), HEAD._replace(behind_s=0.5), "live"),
        (Standing(HEAD.head, 0), HEAD._replace(behind_s=0), "live"),
        (Standing(AT, 0), HEAD._replace(behind_s=60.1), "lagging"),
        (Standing(AT, 89.9), HEAD, "catching_up"),
        (Standing(AT, 90), HEAD, "stalled"),
        (Standing(HEAD.head, 90), HEAD, "stalled"),
        (Standing(AT, 90, bootstrapping=True), HEAD, "stalled"),
        (Standing(Position(1, 9), 0), HEAD, "catching_up"),
        (Standing(Position(1, 8), 0), HEAD, "needs_reseed"),
        (Standing(Position(1, 8), 90), HEAD, "needs_reseed"),
        (Standing(AT, 0, decided="recalled"), HEAD, "needs_reseed"),
        (Standing(AT, 90, decided="recalled"), HEAD, "needs_reseed"),
        (Standing(AT, 0, decided="evicted"), HEAD, "evicted"),
        (Standing(AT, 0, decided="evicted", fenced=True), HEAD, "evicted"),
        (Standing(AT, 0, fenced=True), HEAD, "fenced"),
        (Standing(AT, 90, fenced=True, decided="recalled"), HEAD, "fenced"),
        (Standing(Position(1, 51), 0), HEAD, "fenced"),
        (Standing(Position(2, 40), 0), HEAD, "fenced"),
        (Standing(Position(1, 50), 0), HEAD._replace(head=Position(2, 50)), "live"),
        (Standing(Position(1, 50), 0), HEAD._replace(head=Position(2, 53)), "catching_up"),
    ],
)
def test_a_state_follows_from_what_is_known(standing: Standing, reach: Reach, expected: ReplicaState) -> None:
    """K4.5: each state, and what takes a replica from one to the next."""
    assert state(standing, reach, LIMITS) == expected


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        (Standing(AT, 0), True),
        (Standing(AT, 0, bootstrapping=True), True),
        (Standing(AT, 3599), True),
        (Standing(AT, 3600), False),
        (Standing(AT, 0, decided="evicted"), False),
        (Standing(AT, 0, decided="recalled"), False),
        (Standing(AT, 0, fenced=True), False),
    ],
)
def test_the_log_waits_for_whoever_can_go_on_and_was_heard(standing: Standing, expected: bool) -> None:
    """K4.2: a dead replica stops blocking after its time to live."""
    assert holds(standing, LIMITS) is expected


def report(position: str, copy_id: str = ONE, *, name: str = "a", db_id: str = "b") -> ReplicaReport:
    """Return a report about a document."""
    return ReplicaReport(db_id=db_id, replica_id=name, copy_id=copy_id, kind="file", position=position, by="root")


def noted(*reports: ReplicaReport) -> NoteReplicas:
    """Return the command that notes them."""
    return NoteReplicas(reports=reports)


def after(*history: Command, wait_s: float = 1) -> tuple[list[ReplicaRow], list[Any]]:
    """Return the rows after commands on a fresh control plane, and what became of the commands."""
    with fresh() as (domain, projection):
        begun: list[Command] = [CreateDocument(db_id="b", by="root"), *history]
        outcomes = [outcome for _, _, outcome, _ in run(domain, projection, [(int(wait_s), one) for one in begun])]
        return every(projection.db), outcomes[1:]


def test_a_position_never_goes_back_while_the_copy_is_the_same() -> None:
    """K4.1: monotonic per epoch; a new copy begins where its snapshot stands."""
    (row,), _ = after(noted(report("1.150")), noted(report("1.3")))
    assert row.position == Position(1, 150)
    (row,), _ = after(noted(report("2.150")), noted(report("1.200")))
    assert row.position == Position(2, 150)
    (row,), _ = after(noted(report("1.150")), noted(report("1.3", OTHER)))
    assert (row.copy_id, row.position) == (OTHER, Position(1, 3))


@pytest.mark.parametrize("command", [EvictReplica, RecallReplica])
def test_what_is_given_up_is_a_copy(command: type[EvictReplica] | type[RecallReplica]) -> None:
    """K4.3: reports of that copy are passed over, and with the next copy the replica is one like any other."""
    gone = command(db_id="b", replica_id="a", reason="why not")
    (row,), outcomes = after(noted(report("1.5")), gone, noted(report("1.9")), gone)
    assert (row.decided != "", row.reason, row.position) == (True, "why not", Position(1, 5))
    assert outcomes[2][1] == {"noted": 0}
    assert outcomes[1][1] == outcomes[3][1]
    (row,), _ = after(noted(report("1.5")), gone, noted(report("1.9", OTHER)))
    assert (row.decided, row.reason, row.position) == ("", "", Position(1, 9))


def test_what_nobody_knows_is_not_noted_and_cannot_be_given_up() -> None:
    """K4.1, K4.3: no such document, a deleted one, and a replica that never reported."""
    rows, outcomes = after(
        noted(report("1.5", db_id="nowhere")),
        EvictReplica(db_id="b", replica_id="a"),
        DeleteDocument(db_id="b"),
        noted(report("1.5")),
    )
    assert rows == []
    assert isinstance(outcomes[1], Refusal)
    assert outcomes[1].problem.status == 404


def test_the_replicas_of_a_document_are_bounded_and_the_silent_are_forgotten() -> None:
    """PR7, K4.2."""
    many = [report("1.5", name=f"r{number}") for number in range(REPLICAS_OF_DOCUMENT_MAX + 5)]
    rows, _ = after(noted(*many), noted(*many))
    assert len(rows) == REPLICAS_OF_DOCUMENT_MAX
    rows, _ = after(noted(report("1.5")), noted(report("1.5", name="z")), wait_s=FORGOTTEN_AFTER_S + 1)
    assert [row.replica_id for row in rows] == ["z"]
