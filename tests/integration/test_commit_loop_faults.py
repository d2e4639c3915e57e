"""The commit loop when something fails or goes away: everybody is told the truth, and it recovers by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from events.cursor import Cursor
from events.log import Log
from forge.stack.nats import NatsServer
from projectors import partition as partition_module
from projectors.outcome import Answer
from projectors.partition import Partition
from schemas.ids import Position
from schemas.problems import Refusal
from tests.conftest import StartNats
from tests.faults import disk
from tests.faults.nats_proxy import NatsProxy
from tests.integration.note_callers import WAIT_S, Gate, held, logged, problem_of, queued, submit
from tests.notes import (
    append_note,
    eventually,
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


@pytest.mark.parametrize("stage", ["connecting", "appending"])
async def test_closing_ends_also_while_the_server_is_silent(
    nats_server: NatsServer, tmp_path: Path, stage: str
) -> None:
    """PR7: a server that takes connections and answers nothing does not keep a node from stopping."""
    partition = new_partition()
    async with (
        NatsProxy("127.0.0.1", int(nats_server.log_url.rpartition(":")[2])) as proxy,
        opened_log(nats_server, writer_port=proxy.port) as event_log,
    ):
        async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
            if stage == "appending":
                await submit(running, "first")
            proxy.pause()
            waiting = asyncio.create_task(submit(running, "second"))
            await eventually(lambda: proxy.connections > 0 and (stage == "connecting" or running.waiting == 0))
            async with asyncio.timeout(WAIT_S):
                await running.close()
            assert (await problem_of(waiting)).status == 503
        proxy.resume()
