"""The commit loop on a real server: who is answered what, and what is in the log afterwards."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
import pytest_asyncio

from events.envelope import Event
from events.log import Log
from events.read import Cursor, read
from forge.stack.nats import NatsServer
from projectors import partition as partition_module
from projectors.domain import Decision
from projectors.partition import Answer, Partition
from schemas.facts import Command
from schemas.ids import PartitionId, Position
from schemas.problems import Refusal
from tests.conftest import StartNats
from tests.faults import disk
from tests.faults.nats_proxy import NatsProxy
from tests.notes import (
    AddNotes,
    append_note,
    decide,
    eventually,
    fold_notes,
    new_partition,
    notes_domain,
    opened_log,
    opened_partition,
    texts,
)

WAIT_S = 20.0


@pytest_asyncio.fixture
async def event_log(nats_server: NatsServer) -> AsyncIterator[Log]:
    async with opened_log(nats_server) as opened:
        yield opened


class Gate:
    """Holds the deciding of commands that ask for it, as a slow disk would."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def decide(self, db: apsw.Connection, command: Command, now: str) -> Decision:
        decision = decide(db, command, now)
        if isinstance(command, AddNotes) and command.texts[:1] == ("slow",):
            self.entered.set()
            assert self.opened.wait(WAIT_S)
        return decision


async def submit(running: Partition, *notes: str, **options: Any) -> Answer:
    names = {name: options.pop(name) for name in ("refused", "broken") if name in options}
    return await running.submit(AddNotes(texts=notes, **names), principal="root", **options)


async def held(running: Partition, gate: Gate) -> "asyncio.Task[Answer]":
    """Return a command that is being decided, so that those after it must wait in the queue."""
    slow = asyncio.create_task(submit(running, "slow"))
    await asyncio.to_thread(gate.entered.wait, WAIT_S)
    return slow


async def queued(running: Partition, *commands: Any) -> list["asyncio.Task[Answer]"]:
    """Return tasks of commands that wait in the queue, in order."""
    tasks = [asyncio.create_task(command) for command in commands]
    await eventually(lambda: running.waiting == len(tasks))
    return tasks


async def problem_of(command: Any) -> Any:
    with pytest.raises(Refusal) as raised:
        await command
    return raised.value.problem


async def logged(event_log: Log, partition: PartitionId) -> list[tuple[str, list[str]]]:
    """Return position and texts of every record."""
    found = []
    async for entry in read(event_log.reader, partition, Cursor.start(partition)):
        found.append((str(entry.record.position), [event["data"]["text"] for event in entry.record.envelopes()]))
    return found


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
    assert partition_module.QUEUE_COMMANDS_MAX == 8192
    monkeypatch.setattr(partition_module, "QUEUE_COMMANDS_MAX", 3)
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
        running._notify = lambda _: leaving.cancel() and None  # called between two rounds
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


async def test_a_timeout_after_its_turn_says_that_nobody_knows_and_repeating_is_safe(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """PR5: the same command id gets the answer of the first one, which went on meanwhile."""
    partition = new_partition()
    async with (
        NatsProxy("127.0.0.1", int(nats_server.log_url.rpartition(":")[2])) as proxy,
        opened_log(nats_server, writer_port=proxy.port) as event_log,
        opened_partition(event_log, partition, notes_domain(tmp_path)) as running,
    ):
        await submit(running, "first")
        proxy.pause()
        problem = await problem_of(submit(running, "one", command_id="key", timeout_s=0.2))
        proxy.resume()
        again = await submit(running, "one", command_id="key")

        assert problem.type == "urn:forge:problem:outcome-unknown"
        assert again == Answer(Position(1, 2), {"notes": 2})
        assert await logged(event_log, partition) == [("1.1", ["first"]), ("1.2", ["one"])]


async def test_a_refused_append_rolls_back_everything(start_nats: StartNats, tmp_path: Path) -> None:
    """DESIGN 3.4: stream full: 503, nothing is half done, and it works again once there is room."""
    server = await start_nats(supervised=False)
    partition = new_partition()
    async with opened_log(server) as event_log:
        async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
            await submit(running, "first")
            jetstream = await event_log.admin.jetstream()
            config = (await jetstream.stream_info("FORGE_DOCS")).config
            await jetstream.update_stream(config, max_bytes=500)

            problem = await problem_of(submit(running, "x" * 400, "too much", command_id="key"))

            assert problem.status == 503
            assert "maximum bytes" in problem.detail
            assert texts(tmp_path) == ["first"]
            await jetstream.update_stream(config, max_bytes=-1)
            answer = await submit(running, "fits now", command_id="key")
            assert answer == Answer(Position(1, 2), {"notes": 2})
        assert await logged(event_log, partition) == [("1.1", ["first"]), ("1.2", ["fits now"])]


async def test_a_foreign_record_is_folded_before_deciding_again(event_log: Log, tmp_path: Path) -> None:
    """PR3, DESIGN 3.4: roll back, read the foreign records, decide again."""
    partition = new_partition()
    async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
        await running.ready(WAIT_S)
        cursor = await append_note(event_log, partition, Cursor.start(partition), "foreign 1")
        await append_note(event_log, partition, cursor, "foreign 2")

        answer = await submit(running, "mine")

        assert answer == Answer(Position(1, 3), {"notes": 3})
        assert texts(tmp_path) == ["foreign 1", "foreign 2", "mine"]


async def test_after_too_many_conflicts_the_caller_gets_503(
    event_log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PR7: retries are bounded; the next command works."""
    partition = new_partition()
    monkeypatch.setattr(partition_module, "CONFLICTS_MAX", 1)
    async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
        await running.ready(WAIT_S)
        await append_note(event_log, partition, Cursor.start(partition), "foreign")

        problem = await problem_of(submit(running, "refused"))

        assert problem.status == 503
        assert "another writer" in problem.detail
        assert (await submit(running, "mine")).value == {"notes": 2}
    assert texts(tmp_path) == ["foreign", "mine"]


@pytest.mark.root
async def test_a_projection_that_cannot_be_committed_is_mended_from_the_log(event_log: Log) -> None:
    """PR1, PR7: the disk fills up between append and commit: the durable record is folded once there is room."""
    if reason := disk.unavailable():
        pytest.skip(f"FULL DISKS ARE NOT TESTED: {reason}")
    partition = new_partition()
    with disk.small_tmpfs(4 << 20) as small:
        async with opened_partition(event_log, partition, notes_domain(small.path)) as running:
            await submit(running, "first")
            ballast = small.fill()
            problem = await problem_of(submit(running, "x" * 200_000, command_id="key"))
            assert problem.status in (500, 503, 507)
            ballast.unlink()

            answer = await _until_answered(lambda: submit(running, "second", command_id="other"))

            stored = await logged(event_log, partition)
            assert texts(small.path) == [text for _, record in stored for text in record]
            assert answer.value == {"notes": len(texts(small.path))}


async def test_a_commit_that_fails_after_the_append_is_mended_from_the_log(event_log: Log, tmp_path: Path) -> None:
    """PR1: only the log knows then; the caller hears that nobody can say, the record is folded by itself."""
    partition = new_partition()
    async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
        await submit(running, "first")

        def refuse() -> bool:
            return True

        running._projections[0].db.set_commit_hook(refuse)
        problem = await problem_of(submit(running, "second", command_id="key"))

        assert problem.type == "urn:forge:problem:outcome-unknown"
        answer = await _until_answered(lambda: submit(running, "second", command_id="key"))
        assert answer == Answer(Position(1, 2), {"notes": 2})
        assert texts(tmp_path) == ["first", "second"]
    assert await logged(event_log, partition) == [("1.1", ["first"]), ("1.2", ["second"])]


async def _until_answered(ask: Callable[[], Any]) -> Answer:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                answer: Answer = await ask()
                return answer
            except Refusal:
                await asyncio.sleep(0.05)


def _once(running: Partition, name: str) -> Any:
    return submit(running, name, command_id=name)


async def test_closing_while_a_record_is_on_its_way_says_that_nobody_knows(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """PR3, PR5: after a restart the same command id is answered, and its record is in the log once."""
    partition = new_partition()
    async with (
        NatsProxy("127.0.0.1", int(nats_server.log_url.rpartition(":")[2])) as proxy,
        opened_log(nats_server, writer_port=proxy.port) as event_log,
    ):
        async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
            await submit(running, "first")
            lost = proxy.swallow_next_ack(partition.subject, reset=False)
            task = asyncio.create_task(submit(running, "second", command_id="key"))
            await lost
            await running.close()

            assert (await problem_of(task)).type == "urn:forge:problem:outcome-unknown"
            assert (await problem_of(submit(running, "third"))).type == "urn:forge:problem:unavailable"
        assert texts(tmp_path) == ["first"]
        async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
            answer = await submit(running, "second", command_id="key")
            assert answer == Answer(Position(1, 2), {"notes": 2})
        assert await logged(event_log, partition) == [("1.1", ["first"]), ("1.2", ["second"])]


async def test_closing_while_commands_are_decided_waits_for_the_thread(event_log: Log, tmp_path: Path) -> None:
    """A database that a thread still writes may not be closed or rolled back under it."""
    partition, gate = new_partition(), Gate()
    async with opened_partition(event_log, partition, notes_domain(tmp_path, decide=gate.decide)) as running:
        slow = await held(running, gate)
        (waiting,) = await queued(running, submit(running, "waiting"))
        closing = asyncio.create_task(running.close())
        done, _ = await asyncio.wait({closing}, timeout=0.1)
        assert not done
        gate.opened.set()
        await closing

        for task in (slow, waiting):
            assert (await problem_of(task)).type == "urn:forge:problem:unavailable"
    assert await logged(event_log, partition) == []
    async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
        assert (await submit(running, "one")).value == {"notes": 1}


async def test_a_reader_that_waits_for_a_position_leaves_nothing_behind(event_log: Log, tmp_path: Path) -> None:
    """PR7: positions that never come are waited for by clients that go away."""
    partition = new_partition()
    async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
        await running.ready(WAIT_S)
        waiting = asyncio.create_task(running.reached(Position(1, 99), WAIT_S))
        coming = asyncio.create_task(running.reached(Position(1, 1), WAIT_S))
        await eventually(lambda: len(running._waiting) == 2)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        assert (await problem_of(running.reached(Position(1, 99), 0.01))).status == 503
        await submit(running, "one")
        await coming

        assert running._waiting == []


async def test_the_server_may_die_and_come_back_while_commands_wait(start_nats: StartNats, tmp_path: Path) -> None:
    """PR1, PR3: each command that was answered is in the log once, at its place."""
    server = await start_nats()
    partition = new_partition()
    async with (
        opened_log(server) as event_log,
        opened_partition(event_log, partition, notes_domain(tmp_path)) as running,
    ):
        await submit(running, "first")
        for round_ in range(3):
            names = [f"{round_}-{n}" for n in range(30)]
            tasks = [asyncio.create_task(_until_answered(partial(_once, running, name))) for name in names]
            await eventually(lambda: running.waiting == 0)
            await server.child.kill()
            await asyncio.gather(*tasks)
        stored = await logged(event_log, partition)
    notes = [note for _, record in stored for note in record]
    assert sorted(notes) == sorted(["first", *(f"{r}-{n}" for r in range(3) for n in range(30))])
    assert texts(tmp_path) == notes
