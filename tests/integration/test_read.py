"""Reading a partition: all of it, in order, from anywhere, and live."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import pytest
import pytest_asyncio

from events import read as read_module
from events.append import Appended, append
from events.cursor import Cursor
from events.errors import ChainMismatch, LogGap
from events.log import Log
from events.read import BATCH_MESSAGES, check_end, follow, read
from events.record import PART_BYTES_MAX, Record
from forge.stack.nats import NatsServer
from schemas.ids import START, PartitionId, Position
from tests.conftest import StartNats
from tests.notes import append_note, eventually, new_partition, opened_log, record_after


@pytest_asyncio.fixture
async def event_log(nats_server: NatsServer) -> AsyncIterator[Log]:
    async with opened_log(nats_server) as opened:
        yield opened


async def written(event_log: Log, partition: PartitionId, count: int, after: Cursor | None = None) -> list[Cursor]:
    cursors = [after or Cursor.start(partition)]
    for number in range(count):
        cursors.append(await append_note(event_log, partition, cursors[-1], f"note {number}"))
    return cursors


async def test_a_partition_without_records_is_empty(event_log: Log) -> None:
    partition = new_partition()

    assert [entry async for entry in read(event_log.reader, partition, Cursor.start(partition))] == []
    assert await check_end(event_log.reader, partition, Cursor.start(partition)) == START


async def test_reading_goes_on_from_any_position(event_log: Log) -> None:
    """DESIGN 3.6: records in order, whatever other partitions write between them."""
    partition, other = new_partition(), new_partition()
    cursors = await written(event_log, partition, 3)
    await written(event_log, other, 4)
    cursors += (await written(event_log, partition, 3, cursors[-1]))[1:]

    for at, cursor in enumerate(cursors):
        found = [entry.cursor async for entry in read(event_log.reader, partition, cursor)]
        assert found == cursors[at + 1 :]
        assert await check_end(event_log.reader, partition, cursor) == Position(1, 6)


async def test_more_records_than_one_answer_holds_are_read(event_log: Log) -> None:
    """PR7: memory is bounded by one batch; nothing is lost at its edges."""
    partition = new_partition()
    count = BATCH_MESSAGES + 3
    cursors = await written(event_log, partition, count)

    positions = [e.cursor.position.index async for e in read(event_log.reader, partition, cursors[0])]

    assert positions == list(range(1, count + 1))


async def test_records_of_many_parts_among_others_are_read_whole(event_log: Log) -> None:
    """DESIGN 3.2: the fold sees one record, also when an answer of the server ends inside it."""
    partition = new_partition()
    cursor = Cursor.start(partition)
    sent: list[tuple[Record, Cursor]] = []
    for size in (10, 3 * PART_BYTES_MAX, 10, PART_BYTES_MAX + 1, PART_BYTES_MAX):
        made = replace(record_after(cursor, partition), payload=bytes([65 + len(sent)]) * size, encoding="")
        outcome = await append(event_log.writer, made, cursor.sequence)
        assert isinstance(outcome, Appended)
        cursor = Cursor(made.position, made.hash, outcome.sequence)
        sent.append((made, cursor))

    found = [entry async for entry in read(event_log.reader, partition, Cursor.start(partition))]

    assert [(entry.record, entry.cursor) for entry in found] == sent
    for _, known in sent:
        assert await check_end(event_log.reader, partition, known) == Position(1, 5)


async def test_a_follower_gets_what_is_there_and_then_what_comes(event_log: Log) -> None:
    """DESIGN 3.6: `follow` is `read` and then live, with or without hints."""
    partition = new_partition()
    cursors = await written(event_log, partition, 2)
    seen: list[Cursor] = []

    async def keep() -> None:
        async with aclosing(follow(event_log.reader, event_log.live, partition, cursors[1])) as entries:
            async for entry in entries:
                seen.append(entry.cursor)

    task = asyncio.create_task(keep())
    await eventually(lambda: len(seen) == 1)
    cursors += (await written(event_log, partition, 3, cursors[-1]))[1:]
    await event_log.live.send(partition.live_subject, b"")
    await eventually(lambda: len(seen) == 4)
    await _cancelled(task)

    assert seen == cursors[2:]


async def test_a_follower_whose_hints_are_lost_finds_what_comes(
    event_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PR7: it looks by itself, less often the longer nothing comes."""
    monkeypatch.setattr(read_module, "POLL_S", 0.01)
    monkeypatch.setattr(read_module, "POLL_MAX_S", 0.1)
    partition = new_partition()
    cursors = [Cursor.start(partition)]
    seen: list[Cursor] = []

    async def keep() -> None:
        async with aclosing(follow(event_log.reader, event_log.live, partition, cursors[0])) as entries:
            async for entry in entries:
                seen.append(entry.cursor)

    task = asyncio.create_task(keep())
    for number in range(1, 4):
        cursors += (await written(event_log, partition, 1, cursors[-1]))[1:]
        await eventually(partial(_has, seen, number))
        await asyncio.sleep(0.05)  # so that it waits longer by the next time
    await _cancelled(task)

    assert seen == cursors[1:]


async def test_a_follower_survives_the_death_of_the_server(start_nats: StartNats) -> None:
    """PR7: recovery without a restart by hand; nothing is seen twice."""
    server = await start_nats()
    async with opened_log(server) as event_log:
        partition = new_partition()
        cursors = await written(event_log, partition, 2)
        seen: list[Cursor] = []

        async def keep() -> None:
            async with aclosing(follow(event_log.reader, event_log.live, partition, cursors[0])) as entries:
                async for entry in entries:
                    seen.append(entry.cursor)

        task = asyncio.create_task(keep())
        await eventually(lambda: len(seen) == 2)
        await server.child.kill()
        cursors += (await written(event_log, partition, 2, cursors[-1]))[1:]
        await eventually(lambda: len(seen) == 4)
        await _cancelled(task)

        assert seen == cursors[1:]


async def test_the_known_end_must_be_what_the_log_holds(event_log: Log) -> None:
    """DESIGN 3.5: at start, position and hash known to a projection are compared with the log."""
    partition = new_partition()
    cursors = await written(event_log, partition, 3)

    with pytest.raises(ChainMismatch, match=r"another record 1\.2 than the one folded here"):
        await check_end(event_log.reader, partition, replace(cursors[2], hash="00" * 16))
    with pytest.raises(LogGap, match=r"does not hold its record 1\.2 where it was written"):
        await check_end(event_log.reader, partition, replace(cursors[2], sequence=cursors[3].sequence))


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled() or task.exception() is None


def _has(seen: list[Cursor], count: int) -> bool:
    return len(seen) == count
