"""A log whose writer changed: reading, seeking and archiving go on over the epochs, and lost positions are refused."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from events.append import Appended, append
from events.archive import Archive
from events.archived_place import archived_end
from events.cursor import Cursor
from events.epoch_ends import begin_epoch
from events.errors import LogDamaged
from events.log import Log
from events.objects.memory import MemoryStore
from events.read import read
from events.seek import BelowFloor, BeyondHead, OtherHistory, seek, seek_index
from forge.stack.nats import NatsServer
from schemas.ids import START, PartitionId, Position
from tests.archives import PREFIX, archived_up_to, archiving, assert_equal, segment_keys, written
from tests.notes import TIME, NoteAdded, new_partition, opened_log, record_after

SEED = 20261128


@pytest_asyncio.fixture
async def event_log(nats_server: NatsServer) -> AsyncIterator[Log]:
    async with opened_log(nats_server) as opened:
        yield opened


async def append_in(event_log: Log, partition: PartitionId, after: Cursor, epoch: int, count: int) -> list[Cursor]:
    """Append so many notes as a writer of `epoch`; return the cursors after them."""
    cursors: list[Cursor] = []
    for _ in range(count):
        record = record_after(after, partition, [NoteAdded(text="a note")])
        record = replace(record, position=after.position.next(epoch))
        outcome = await append(event_log.writer, record, after.sequence)
        assert isinstance(outcome, Appended)
        after = Cursor(record.position, record.hash, outcome.sequence)
        cursors.append(after)
    return cursors


async def in_epochs(event_log: Log, partition: PartitionId, counts: dict[int, int]) -> list[Cursor]:
    """Write a history of so many records by epoch; return all its cursors from the start on."""
    cursors = [Cursor.start(partition)]
    for epoch, count in counts.items():
        cursors += await append_in(event_log, partition, cursors[-1], epoch, count)
    return cursors


async def test_a_history_is_read_and_sought_over_its_epochs(event_log: Log) -> None:
    """PR2 and K2.3: each position is found, a lost one is of another history, and one beyond the head is to come."""
    partition = new_partition()
    cursors = await in_epochs(event_log, partition, {1: 20, 2: 1, 5: 30, 6: 9})

    found = [entry.cursor async for entry in read(event_log.reader, partition, cursors[7])]

    assert found == cursors[8:]
    for index, cursor in enumerate(cursors):
        assert await seek(event_log.reader, partition, cursor.position) == cursor
        assert await seek_index(event_log.reader, partition, index) == cursor
    for lost in [Position(1, 21), Position(1, 55), Position(2, 20), Position(3, 22), Position(5, 60), Position(1, 99)]:
        with pytest.raises(OtherHistory):
            await seek(event_log.reader, partition, lost)
    with pytest.raises(BeyondHead):
        await seek(event_log.reader, partition, Position(6, 61))
    lost_cursor = replace(cursors[21], position=Position(1, 21), hash="00" * 16)
    with pytest.raises(LogDamaged):
        await anext(read(event_log.reader, partition, lost_cursor))


async def test_segments_are_of_one_epoch_and_are_read_where_the_log_is_gone(event_log: Log) -> None:
    """PR4 and K2.3: of a log that begins late, too, it is known what was lost."""
    partition, store = new_partition(), MemoryStore()
    cursors = await in_epochs(event_log, partition, {1: 10})
    async with archiving(event_log, store):
        await archived_up_to(store, partition, cursors[-1].position)
    await begin_epoch(Archive(store, PREFIX), 3, node="other", time=TIME)
    cursors += await append_in(event_log, partition, cursors[-1], 3, 12)
    async with archiving(event_log, store):
        await archived_up_to(store, partition, cursors[-1].position)

    archive = event_log.reader.archive = Archive(store, PREFIX)
    await assert_equal(archive, event_log.reader, partition)
    assert {key.epoch for key in segment_keys(store, partition)} == {1, 3}
    jetstream = await event_log.admin.jetstream()
    await jetstream.purge_stream("FORGE_DOCS", subject=partition.subject, seq=cursors[11].sequence)
    for cursor in random.Random(SEED).sample(cursors[:11], 5) + cursors[9:12]:
        assert [e.cursor.position for e in [e async for e in read(event_log.reader, partition, cursor)]] == [
            one.position for one in cursors[cursor.position.index + 1 :]
        ]
        assert (await seek(event_log.reader, partition, cursor.position)).hash == cursor.hash
    assert (await seek_index(event_log.reader, partition, 4)).hash == cursors[4].hash
    for lost in [Position(1, 11), Position(1, 12), Position(3, 10)]:
        with pytest.raises((OtherHistory, BelowFloor)):
            await seek(event_log.reader, partition, lost)


async def test_a_lost_tail_is_of_another_history_before_anything_follows(event_log: Log) -> None:
    """K2.3: also while the new writer has not written there yet."""
    partition, store = new_partition(), MemoryStore()
    end = await written(event_log, partition, 5)
    async with archiving(event_log, store):
        await archived_up_to(store, partition, end.position)
    event_log.reader.archive = Archive(store, PREFIX)
    with pytest.raises(BeyondHead):
        await seek(event_log.reader, partition, Position(1, 7))

    await begin_epoch(event_log.reader.archive, 2, node="other", time=TIME)

    with pytest.raises(OtherHistory):
        await seek(event_log.reader, partition, Position(1, 7))
    assert await seek(event_log.reader, partition, START) == Cursor.start(partition)


async def test_an_archiver_goes_on_where_that_of_another_node_stopped(event_log: Log) -> None:
    """PR4: what it says of sequences was true of another log."""
    partition, store = new_partition(), MemoryStore()
    end = await written(event_log, partition, 5)
    async with archiving(event_log, store):
        await archived_up_to(store, partition, end.position)
    key = f"{PREFIX}/log/FORGE_DOCS/{partition.token}/position.json"
    told = store.objects[key].data.replace(f'"sequence":{end.sequence}'.encode(), b'"sequence":999999')
    del store.objects[key]
    await store.create(key, told)

    more = await append_in(event_log, partition, end, 2, 3)
    await begin_epoch(Archive(store, PREFIX), 2, node="other", time=TIME)
    async with archiving(event_log, store):
        await archived_up_to(store, partition, more[-1].position)

    await assert_equal(Archive(store, PREFIX), event_log.reader, partition)


async def test_what_was_written_when_its_epoch_was_over_is_not_archived(event_log: Log) -> None:
    """G11 and PR3: also if a node that writes in its own log does not know yet that another took over."""
    partition, store = new_partition(), MemoryStore()
    end = await written(event_log, partition, 3)
    async with archiving(event_log, store) as archiver:
        await archived_up_to(store, partition, end.position)
        await begin_epoch(Archive(store, PREFIX), 2, node="other", time=TIME)
        await archiver.archive.epochs.refresh()

        await written(event_log, partition, 2, end)

        async with asyncio.timeout(20):
            while not any(str(partition) in lag.stopped for lag in await archiver.lag()):  # noqa: ASYNC110 - it polls
                await asyncio.sleep(0.02)
    assert (await archived_end(Archive(store, PREFIX), partition)).cursor == end
    assert [key.last for key in segment_keys(store, partition)] == [3]
