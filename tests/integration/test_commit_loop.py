"""The commit loop on a real server: who is answered what, and what is in the log afterwards."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from events.envelope import Event
from events.log import Log
from forge.stack.nats import NatsServer
from projectors import command_queue
from projectors.outcome import Answer, Committed
from schemas.ids import Position
from tests.integration.note_callers import WAIT_S, Gate, held, logged, problem_of, queued, submit
from tests.notes import (
    eventually,
    fold_notes,
    new_partition,
    notes_domain,
    opened_log,
    opened_partition,
    texts,
)


@pytest_asyncio.fixture
async def event_log(nats_server: NatsServer) -> AsyncIterator[Log]:
    async with opened_log(nats_server) as opened:
        yield opened


async def test_an_answer_comes_when_it_is_durable_and_visible(event_log: Log, tmp_path: Path) -> None:
    """PR1: with the answer the record is in the log and its rows can be read."""
    partition = new_partition()
    async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
        answer = await submit(running, "one", "two")

        assert answer == Answer(Position(1, 1), {"notes": 2})
        assert texts(tmp_path) == ["one", "two"]
        assert running.position == Position(1, 1)
        await running.reached(Position(1, 1), 0)
    assert await logged(event_log, partition) == [("1.1", ["one", "two"])]


async def test_what_waits_while_a_record_is_on_its_way_becomes_one_record(event_log: Log, tmp_path: Path) -> None:
    """DESIGN 3.3: batching is natural; order is that of arrival."""
    partition, gate = new_partition(), Gate()
    async with opened_partition(event_log, partition, notes_domain(tmp_path, decide=gate.decide)) as running:
        slow = await held(running, gate)
        rest = await queued(running, *(submit(running, f"note {n}") for n in range(20)))
        gate.opened.set()

        answers = await asyncio.gather(slow, *rest)

    assert [str(answer.position) for answer in answers] == ["1.1"] + ["1.2"] * 20
    assert [answer.value["notes"] for answer in answers] == list(range(1, 22))
    assert await logged(event_log, partition) == [("1.1", ["slow"]), ("1.2", [f"note {n}" for n in range(20)])]


@pytest.mark.parametrize(("ending", "status"), [("refused", 409), ("broken", 500)])
async def test_one_command_that_fails_leaves_the_others_of_its_record(
    event_log: Log, tmp_path: Path, ending: str, status: int
) -> None:
    """PR3: its own rows and events are undone, and it alone is answered with an error."""
    partition, gate = new_partition(), Gate()
    async with opened_partition(event_log, partition, notes_domain(tmp_path, decide=gate.decide)) as running:
        slow = await held(running, gate)
        before, bad, after = await queued(
            running, submit(running, "before"), submit(running, "never", **{ending: True}), submit(running, "after")
        )
        gate.opened.set()

        problem = await problem_of(bad)
        answers = await asyncio.gather(slow, before, after)

    assert problem.status == status
    assert "as asked" not in problem.detail or ending == "refused"
    assert [answer.value["notes"] for answer in answers] == [1, 2, 3]
    assert texts(tmp_path) == ["slow", "before", "after"]
    stored = await logged(event_log, partition)
    assert [note for _, notes in stored for note in notes] == ["slow", "before", "after"]


async def test_a_fold_that_fails_in_the_loop_fails_its_command_alone(event_log: Log, tmp_path: Path) -> None:
    """PR3: what cannot be folded is never appended; the log stays readable."""

    def fold(db: apsw.Connection, events: Sequence[Event]) -> None:
        fold_notes(db, events)
        if "poison" in [event.fact.subject for event in events]:
            raise RuntimeError("as asked")

    partition = new_partition()
    async with opened_partition(event_log, partition, notes_domain(tmp_path, fold=fold)) as running:
        assert (await problem_of(submit(running, "good", "poison"))).status == 500
        await submit(running, "better")

    assert texts(tmp_path) == ["better"]
    assert await logged(event_log, partition) == [("1.1", ["better"])]


async def test_a_command_without_facts_writes_no_record(event_log: Log, tmp_path: Path) -> None:
    partition = new_partition()
    async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
        assert await submit(running) == Answer(Position(1, 0), {"notes": 0})
        await submit(running, "one")
        assert await submit(running) == Answer(Position(1, 1), {"notes": 1})
    assert await logged(event_log, partition) == [("1.1", ["one"])]


async def test_a_full_queue_refuses_with_retry_after(
    event_log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PR7: the queue is bounded; what was refused never happens."""
    assert command_queue.QUEUE_COMMANDS_MAX == 8192
    monkeypatch.setattr(command_queue, "QUEUE_COMMANDS_MAX", 3)
    partition, gate = new_partition(), Gate()
    async with opened_partition(event_log, partition, notes_domain(tmp_path, decide=gate.decide)) as running:
        slow = await held(running, gate)
        waiting = await queued(running, *(submit(running, f"note {n}") for n in range(3)))

        problem = await problem_of(submit(running, "one too many"))

        gate.opened.set()
        await asyncio.gather(slow, *waiting)
    assert (problem.status, problem.retry_after_s) == (503, 1)
    assert texts(tmp_path) == ["slow", "note 0", "note 1", "note 2"]


async def test_a_caller_that_leaves_before_its_turn_changes_nothing(event_log: Log, tmp_path: Path) -> None:
    """PR7, PR3: its command is taken out of the queue."""
    partition, gate = new_partition(), Gate()
    async with opened_partition(event_log, partition, notes_domain(tmp_path, decide=gate.decide)) as running:
        slow = await held(running, gate)
        leaving, staying = await queued(running, submit(running, "leaving"), submit(running, "staying"))
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving
        assert running.waiting == 1
        gate.opened.set()
        await asyncio.gather(slow, staying)

    assert texts(tmp_path) == ["slow", "staying"]


async def test_a_caller_that_leaves_in_the_very_moment_of_its_turn_changes_nothing(
    event_log: Log, tmp_path: Path
) -> None:
    """PR3: between its leaving and the cleaning up after it, the loop may look at the queue."""
    partition, gate = new_partition(), Gate()
    async with opened_partition(event_log, partition, notes_domain(tmp_path, decide=gate.decide)) as running:
        slow = await held(running, gate)
        leaving, staying = await queued(running, submit(running, "leaving"), submit(running, "staying"))

        def leave(_: Committed) -> None:
            leaving.cancel()

        running._notify = leave  # called between two rounds
        gate.opened.set()
        await asyncio.gather(slow, staying)
        with pytest.raises(asyncio.CancelledError):
            await leaving

    assert texts(tmp_path) == ["slow", "staying"]


async def test_a_timeout_before_its_turn_says_that_nothing_was_changed(event_log: Log, tmp_path: Path) -> None:
    """PR3: an answer with an error is final."""
    partition, gate = new_partition(), Gate()
    async with opened_partition(event_log, partition, notes_domain(tmp_path, decide=gate.decide)) as running:
        slow = await held(running, gate)
        problem = await problem_of(submit(running, "late", timeout_s=0.01))
        gate.opened.set()
        await slow
        await submit(running, "next")

    assert (problem.status, problem.type) == (503, "urn:forge:problem:unavailable")
    assert "nothing was changed" in problem.detail
    assert texts(tmp_path) == ["slow", "next"]


async def test_a_reader_that_waits_for_a_position_leaves_nothing_behind(event_log: Log, tmp_path: Path) -> None:
    """PR7: positions that never come are waited for by clients that go away."""
    partition = new_partition()
    async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
        await running.ready(WAIT_S)
        waiting = asyncio.create_task(running.reached(Position(1, 99), WAIT_S))
        coming = asyncio.create_task(running.reached(Position(1, 1), WAIT_S))
        await eventually(lambda: len(running._waiters._waiting) == 2)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        assert (await problem_of(running.reached(Position(1, 99), 0.01))).status == 503
        await submit(running, "one")
        await coming

        assert running._waiters._waiting == []
