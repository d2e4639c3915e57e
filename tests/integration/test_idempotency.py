"""Retrying is always safe: a command id gets one answer, whatever happened between the first time and the next."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from events.log import Log
from forge.stack.nats import NatsServer
from projectors.outcome import Answer
from projectors.projection import COMMANDS_KEPT_S, connect
from projectors.rebuild import rebuild
from projectors.threads import Threads
from schemas.ids import Position
from schemas.instants import later
from schemas.instants import now as wall_clock
from tests.integration.note_callers import Gate, held, logged, problem_of, queued, submit
from tests.notes import new_partition, notes_domain, opened_log, opened_partition, texts


@pytest_asyncio.fixture
async def event_log(nats_server: NatsServer) -> AsyncIterator[Log]:
    async with opened_log(nats_server) as opened:
        yield opened


async def test_the_same_command_gets_the_same_answer_after_restart_and_rebuild(event_log: Log, tmp_path: Path) -> None:
    """PR5: the answer is remembered in the projection, and the projection comes from the log."""
    partition, domain = new_partition(), notes_domain(tmp_path)
    first = Answer(Position(1, 1), {"notes": 1})
    async with opened_partition(event_log, partition, domain) as running:
        assert await submit(running, "one", command_id="key") == first
        await submit(running, "two")
        assert await submit(running, "one", command_id="key") == first
    async with opened_partition(event_log, partition, domain) as running:
        assert await submit(running, "one", command_id="key") == first
    with Threads(1) as threads:
        await rebuild(event_log.reader, threads, domain, partition, domain.projections(partition.key))
    async with opened_partition(event_log, partition, domain) as running:
        assert await submit(running, "one", command_id="key") == first
    async with opened_partition(event_log, partition, notes_domain(tmp_path / "another node")) as running:
        assert await submit(running, "one", command_id="key") == first

    assert await logged(event_log, partition) == [("1.1", ["one"]), ("1.2", ["two"])]


async def test_another_command_under_the_same_id_is_refused(event_log: Log, tmp_path: Path) -> None:
    """PR5: 422, and nothing happens."""
    partition, domain = new_partition(), notes_domain(tmp_path)
    async with opened_partition(event_log, partition, domain) as running:
        await submit(running, "one", command_id="key")
        problem = await problem_of(submit(running, "two", command_id="key"))
    async with opened_partition(event_log, partition, domain) as running:
        again = await problem_of(submit(running, "two", command_id="key"))

    assert (problem.status, again.status) == (422, 422)
    assert "Idempotency-Key" in problem.detail
    assert texts(tmp_path) == ["one"]


async def test_the_same_command_twice_in_one_record_is_done_once(event_log: Log, tmp_path: Path) -> None:
    """PR5: a client that retries at once finds its first try in the same record; another command is refused there."""
    partition, gate = new_partition(), Gate()
    async with opened_partition(event_log, partition, notes_domain(tmp_path, decide=gate.decide)) as running:
        slow = await held(running, gate)
        first, second, other = await queued(
            running, *(submit(running, text, command_id="key") for text in ("one", "one", "another"))
        )
        gate.opened.set()
        assert (await problem_of(other)).status == 422
        assert await first == await second == Answer(Position(1, 2), {"notes": 2})
        await slow

    assert texts(tmp_path) == ["slow", "one"]


async def test_a_refused_command_may_be_sent_again_under_its_id(event_log: Log, tmp_path: Path) -> None:
    """PR3, PR5: what was refused left nothing behind, not even its id."""
    partition = new_partition()
    async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
        for ending in ("refused", "broken"):
            await problem_of(submit(running, "never", command_id="key", **{ending: True}))
        assert await submit(running, "one", command_id="key") == Answer(Position(1, 1), {"notes": 1})


async def test_many_retries_from_many_callers_are_one_change(event_log: Log, tmp_path: Path) -> None:
    """PR5: with hundreds at once."""
    partition = new_partition()
    async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
        answers = await asyncio.gather(
            *(submit(running, f"note {n % 20}", command_id=f"key {n % 20}") for n in range(400))
        )

    assert sorted(texts(tmp_path)) == sorted(f"note {n}" for n in range(20))
    assert all(answers[n] == answers[n % 20] for n in range(400))


async def test_answers_are_kept_for_a_week_of_the_partition_s_time(event_log: Log, tmp_path: Path) -> None:
    """PR7: memory of commands is bounded by time, by the clock of the events and so equal on every copy."""
    partition, domain = new_partition(), notes_domain(tmp_path)
    clock = wall_clock()
    async with opened_partition(event_log, partition, domain) as running:
        running._clock = lambda: clock
        await submit(running, "one", command_id="old")
        clock = later(clock, COMMANDS_KEPT_S - 1)
        await submit(running, "two", command_id="newer")
        assert (await submit(running, "one", command_id="old")).position == Position(1, 1)
        clock = later(clock, 2)
        await submit(running, "three", command_id="newest")

    db = connect(tmp_path / "notes.db", readonly=True)
    assert {row[0] for row in db.execute("SELECT command_id FROM _forge_command")} == {"newer", "newest"}
    db.close()
