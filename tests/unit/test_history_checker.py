"""The history checker finds every kind of broken promise, and nothing in a history that kept them all."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import Position
from tests.faults.checker import Kind, check
from tests.faults.history import History, Operation, read_histories

Log = list[tuple[int, list[str]]]


class Clock:
    """Counts up by one at each reading."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1
        return self.now


def honest_run(seed: int, commands: int, clients: int) -> tuple[History[int], Log]:
    """Run a tiny correct log with group commit, refusals, lost acks and retries under the same id."""
    chance = random.Random(seed)
    history: History[int] = History(clock=Clock())
    log: Log = []
    waiting: list[tuple[int, str]] = []
    for number in range(commands):
        waiting.append((history.invoke(f"c{number}"), f"c{number}"))
        if len(waiting) < chance.randint(1, clients):
            continue
        batch: list[str] = []
        ends: list[tuple[int, int | None]] = []
        for attempt, id in waiting:
            match chance.choice(("stored", "stored", "refused", "ack lost", "publish lost")):
                case "stored":
                    batch.append(id)
                    ends.append((attempt, len(log) + 1))
                case "refused":
                    ends.append((attempt, None))
                case "ack lost":
                    batch.append(id)
        log.append((len(log) + 1, batch))
        for attempt, position in ends:
            if position is None:
                history.refused(attempt)
            else:
                history.answered(attempt, position)
        if batch and chance.random() < 0.3:
            history.answered(history.invoke(batch[0]), len(log))
        waiting = []
    return history, log


runs = st.builds(honest_run, st.integers(0, 1 << 32), st.integers(20, 60), st.integers(1, 6))


def answered(history: History[int]) -> list[Operation[int]]:
    return [operation for operation in history.operations() if operation.positions]


def kinds(history: History[int], log: Log) -> set[Kind]:
    return {violation.kind for violation in check(history.operations(), log)}


@given(runs)
def test_a_correct_history_has_no_violation(run: tuple[History[int], Log]) -> None:
    """Refusals, lost acks, lost publishes and idempotent retries are all allowed (PR1, PR3, PR5)."""
    history, log = run

    assert check(history.operations(), log) == []


@given(runs, st.randoms(use_true_random=False))
def test_an_acknowledged_id_that_is_missing_is_lost(run: tuple[History[int], Log], chance: random.Random) -> None:
    """PR1: the checker sees a single lost acknowledgement."""
    history, log = run
    if not (candidates := answered(history)):
        return
    victim = chance.choice(candidates)

    broken = [(position, [id for id in ids if id != victim.id]) for position, ids in log]

    violations = check(history.operations(), broken)
    assert [(violation.kind, violation.id) for violation in violations if violation.kind == "lost"] == [
        ("lost", victim.id)
    ]


@given(runs, st.randoms(use_true_random=False))
def test_a_lost_tail_is_lost(run: tuple[History[int], Log], chance: random.Random) -> None:
    """PR1: a log that was cut back loses exactly the answers behind the cut."""
    history, log = run
    kept = chance.randrange(len(log) + 1)

    lost = {violation.id for violation in check(history.operations(), log[:kept]) if violation.kind == "lost"}

    assert lost == {operation.id for operation in answered(history) if min(operation.positions) > kept}


@given(runs, st.randoms(use_true_random=False))
def test_an_id_stored_twice_is_a_duplicate(run: tuple[History[int], Log], chance: random.Random) -> None:
    """PR5: a retry that was stored again is seen, also for an ambiguous command."""
    history, log = run
    stored = [id for _, ids in log for id in ids]
    if not stored:
        return

    assert kinds(history, [*log, (len(log) + 1, [chance.choice(stored)])]) >= {"duplicate"}


def test_an_id_twice_in_one_record_is_a_duplicate() -> None:
    """PR5: the duplicate need not be in another record."""
    history: History[int] = History(clock=Clock())
    history.answered(history.invoke("a"), 1)

    assert kinds(history, [(1, ["a", "a"])]) == {"duplicate"}


@given(runs)
def test_a_refused_id_in_the_log_is_a_phantom(run: tuple[History[int], Log]) -> None:
    """PR3: what was answered with an error never appears later."""
    history, log = run
    history.refused(history.invoke("refused"))

    assert kinds(history, [*log, (len(log) + 1, ["refused"])]) == {"phantom"}


@given(runs)
def test_an_id_that_nobody_sent_is_unknown(run: tuple[History[int], Log]) -> None:
    """PR3: the log holds nothing but what clients asked for."""
    history, log = run

    assert kinds(history, [*log, (len(log) + 1, ["forged"])]) == {"unknown"}


@given(runs, st.randoms(use_true_random=False))
def test_an_id_at_another_position_has_moved(run: tuple[History[int], Log], chance: random.Random) -> None:
    """PR2: an answer names the position where the record is."""
    history, log = run
    if not (candidates := answered(history)):
        return
    victim = chance.choice(candidates)

    broken = [(position, [id for id in ids if id != victim.id]) for position, ids in log]
    broken.append((len(log) + 1, [victim.id]))

    assert "moved" in kinds(history, broken)


def test_two_answers_with_different_positions_for_one_id_are_seen() -> None:
    """PR5: a retry must get the answer of the first attempt."""
    history: History[int] = History(clock=Clock())
    history.answered(history.invoke("a"), 1)
    history.answered(history.invoke("a"), 2)

    assert kinds(history, [(1, ["a"]), (2, [])]) == {"moved"}


@given(runs, st.randoms(use_true_random=False))
def test_a_later_command_logged_before_an_earlier_answer_is_reordered(
    run: tuple[History[int], Log], chance: random.Random
) -> None:
    """PR2: if A was answered before B was invoked, A comes first, also when B's ack was lost."""
    history, log = run
    if not log:
        return
    early = chance.randrange(len(log))
    history.answered(history.invoke("first"), len(log) + 1)
    history.invoke("second, its ack lost")

    broken = [(position, list(ids)) for position, ids in log] + [(len(log) + 1, ["first"])]
    broken[early][1].append("second, its ack lost")

    assert kinds(history, broken) == {"reordered"}


def test_a_command_cannot_share_the_record_of_an_answer_it_waited_for() -> None:
    """PR2: a record is written before its answers, so what is asked after them comes in a later one."""
    history: History[int] = History(clock=Clock())
    history.answered(history.invoke("first"), 1)
    history.answered(history.invoke("second"), 1)

    assert kinds(history, [(1, ["first", "second"])]) == {"reordered"}


def test_concurrent_commands_may_be_logged_in_any_order() -> None:
    """PR2: order is promised only to those who waited for an answer."""
    history: History[int] = History(clock=Clock())
    a, b = history.invoke("a"), history.invoke("b")
    history.answered(a, 2)
    history.answered(b, 1)

    assert kinds(history, [(1, ["b"]), (2, ["a"])]) == set()


@pytest.mark.parametrize("positions", [(1, 1), (2, 1)])
def test_positions_that_do_not_increase_are_a_disordered_log(positions: tuple[int, int]) -> None:
    """PR2: re-issued or repeated positions are seen."""
    history: History[int] = History(clock=Clock())

    assert kinds(history, [(position, []) for position in positions]) == {"disordered log"}


def test_one_ambiguous_attempt_excuses_the_refusal_of_another() -> None:
    """PR3: a retry may be refused although the first attempt, whose answer was lost, was stored."""
    history: History[int] = History(clock=Clock())
    history.invoke("a")
    history.refused(history.invoke("a"))

    assert kinds(history, [(1, ["a"])]) == set()


def test_journals_of_killed_clients_join_into_one_history(tmp_path: Path) -> None:
    """PR2: two processes are checked as one history, and a line cut off by a kill leaves its attempt ambiguous."""
    clock = Clock()
    paths = [tmp_path / "one", tmp_path / "two"]
    with paths[0].open("w") as one, paths[1].open("w") as two:
        first: History[Position] = History(one, clock)
        second: History[Position] = History(two, clock)
        first.answered(first.invoke("a"), Position(1, 1))
        second.answered(second.invoke("b"), Position(1, 2))
        second.refused(second.invoke("c"))
        first.answered(first.invoke("cut off"), Position(1, 3))
    paths[0].write_text(paths[0].read_text()[:-9])

    operations = read_histories(paths, Position.parse)

    assert check(operations, [(Position(1, 1), ["a"]), (Position(1, 2), ["b"])]) == []
    swapped = check(operations, [(Position(1, 1), ["b"]), (Position(1, 2), ["a", "c"])])
    assert {violation.kind for violation in swapped} == {"moved", "reordered", "phantom"}
