"""The commit loop under a guard that closes: before a command, while a record is on its way, and after that."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from events.append import Appended, append
from events.cursor import Cursor
from events.errors import AppendAbandoned, NotTheWriter
from events.log import Log
from events.write_guard import WriteGuard
from forge.stack.nats import NatsServer
from projectors.partition import Partition
from projectors.threads import Threads
from schemas.ids import PartitionId
from tests.faults.nats_proxy import NatsProxy
from tests.integration.note_callers import WAIT_S, logged, problem_of, submit
from tests.notes import NoteAdded, eventually, new_partition, notes_domain, opened_log, record_after, texts

LOST = "b:1 (node-b) holds the writer lease"


def opened_guard() -> WriteGuard:
    guard = WriteGuard()
    guard.open_until(math.inf)
    return guard


@asynccontextmanager
async def guarded(event_log: Log, partition: PartitionId, guard: WriteGuard, folder: Path) -> AsyncIterator[Partition]:
    """Run the commit loop of one partition under `guard`."""
    with Threads(2) as threads:
        running = Partition(partition, notes_domain(folder), event_log, threads, node="test-node", guard=guard)
        try:
            yield running
        finally:
            await running.close()


def proxy_of(server: NatsServer) -> NatsProxy:
    return NatsProxy("127.0.0.1", int(server.log_url.rpartition(":")[2]))


async def test_a_closed_guard_refuses_commands_and_leaves_reads_alone(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR3: nothing is appended; it opens, follows and tells its position all the same, and takes commands again."""
    guard, partition = WriteGuard(), new_partition()
    async with opened_log(nats_server) as event_log, guarded(event_log, partition, guard, tmp_path) as running:
        await running.ready(WAIT_S)
        problem = await problem_of(submit(running, "too early"))
        assert (problem.type, problem.status) == ("urn:forge:problem:not-the-writer", 503)

        guard.open_until(math.inf)
        await submit(running, "in time")
        guard.close(LOST)
        assert (await problem_of(submit(running, "too late"))).detail == LOST
        await running.reached(await _position(running), WAIT_S)

        guard.open_until(math.inf)
        assert (await submit(running, "again")).value == {"notes": 2}
        assert texts(tmp_path) == ["in time", "again"]
        assert [notes for _, notes in await logged(event_log, partition)] == [["in time"], ["again"]]


async def test_what_was_stored_when_the_guard_closed_is_told_as_unknown(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """PR3, PR5: it may not count where the other node writes, so nobody hears that it was done."""
    guard, partition = opened_guard(), new_partition()
    async with (
        proxy_of(nats_server) as proxy,
        opened_log(nats_server, writer_port=proxy.port) as event_log,
        guarded(event_log, partition, guard, tmp_path) as running,
    ):
        await submit(running, "first")
        proxy.delay_s = 0.2
        on_its_way = asyncio.create_task(problem_of(submit(running, "second")))
        await eventually(lambda: running._in_round)
        guard.close(LOST)

        problem = await on_its_way
        assert problem.type == "urn:forge:problem:outcome-unknown"
        assert LOST in problem.detail
        assert (await problem_of(submit(running, "third"))).type == "urn:forge:problem:not-the-writer"
        assert texts(tmp_path) == ["first", "second"]


async def test_an_append_that_nobody_answers_is_not_sent_again_once_the_guard_is_closed(
    nats_server: NatsServer,
) -> None:
    """PR3: not even to find out; that it may be looked for is no writing."""
    await _abandoned(nats_server, lambda proxy: proxy.swallow_next_publish("forge.log.>"), stored=False)
    await _abandoned(nats_server, lambda proxy: proxy.swallow_next_ack("forge.log.>"), stored=True)


async def _abandoned(server: NatsServer, lose: Callable[[Any], Awaitable[Any]], *, stored: bool) -> None:
    guard, partition = opened_guard(), new_partition()
    async with proxy_of(server) as proxy, opened_log(server, writer_port=proxy.port) as event_log:
        record = record_after(Cursor.start(partition), partition, [NoteAdded(text="a note")])
        caught = lose(proxy)
        ours = asyncio.create_task(append(event_log.writer, record, 0, guard))
        await caught
        guard.close(LOST)
        if stored:
            assert isinstance(await ours, Appended)
        else:
            with pytest.raises(AppendAbandoned, match="node-b"):
                await ours
            with pytest.raises(NotTheWriter):
                await append(event_log.writer, record, 0, guard)
        assert len(await logged(event_log, partition)) == int(stored)


async def _position(running: Partition) -> Any:
    assert running.position
    return running.position
