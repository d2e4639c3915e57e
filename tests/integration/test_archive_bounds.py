"""What the archiver may keep in memory, and how long it may keep what it has read."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from blake3 import blake3

from events.append import Appended, append
from events.archive import Archive
from events.cursor import Cursor
from events.log import Log
from events.objects.memory import MemoryStore
from projectors.tasks import end
from schemas.ids import Position
from tests.archives import PREFIX, archived_up_to, archiving, assert_equal, segment_keys, written
from tests.conftest import StartNats
from tests.notes import NoteAdded, append_note, new_partition, opened_log, record_after
from workers.archive.follower import Bounds


@pytest_asyncio.fixture
async def event_log(start_nats: StartNats) -> AsyncIterator[Log]:
    """A server without the records of other tests, which may be larger than these bounds."""
    async with opened_log(await start_nats()) as opened:
        yield opened


async def test_segments_are_cut_by_size_and_memory_is_bounded(event_log: Log) -> None:
    """PR7: a backlog far larger than what may wait in memory."""
    store, partition = MemoryStore(), new_partition()
    cursor = Cursor.start(partition)
    for n in range(60):
        cursor = await append_note(event_log, partition, cursor, blake3(b"%d" % n).hexdigest(50_000))
    largest = 0

    async with archiving(event_log, store, bounds=Bounds(0.05, 256 << 10, 1 << 20, tell_s=0)) as archiver:
        while not segment_keys(store, partition) or segment_keys(store, partition)[-1].last < 60:
            largest = max(largest, *(s.backlog.size_bytes if s.backlog else 0 for s in archiver._streams))
            await asyncio.sleep(0)
        await archived_up_to(store, partition, cursor.position)

    assert len(segment_keys(store, partition)) >= 10
    assert largest <= (1 << 20) + (8 << 20)
    await assert_equal(Archive(store, PREFIX), event_log.reader, partition)


async def test_a_record_of_many_messages_is_archived_whole(event_log: Log) -> None:
    store, partition = MemoryStore(), new_partition()
    record = record_after(Cursor.start(partition), partition, [NoteAdded(text=n) for n in random_texts(9 << 20)])
    assert isinstance(await append(event_log.writer, record, 0), Appended)

    async with archiving(event_log, store):
        await archived_up_to(store, partition, record.position)

    await assert_equal(Archive(store, PREFIX), event_log.reader, partition)


async def test_a_record_that_is_larger_than_the_memory_for_what_waits(event_log: Log) -> None:
    """PR7: it is read to its end all the same, and does not keep the event loop from anything else."""
    store, partition = MemoryStore(), new_partition()
    record = record_after(Cursor.start(partition), partition, [NoteAdded(text=n) for n in random_texts(30 << 20)])
    assert isinstance(await append(event_log.writer, record, 0), Appended)

    async with archiving(event_log, store, bounds=Bounds(0.05, 256 << 10, 1 << 20, tell_s=0)):
        await archived_up_to(store, partition, record.position)

    await assert_equal(Archive(store, PREFIX), event_log.reader, partition)


async def test_a_stream_that_is_written_all_the_time_is_archived_meanwhile(event_log: Log) -> None:
    """PR7: there is always something new to read, and what was read is sealed when it is due."""
    store, partition = MemoryStore(), new_partition()

    async def write_on() -> None:
        cursor: Cursor | None = None
        while True:
            cursor = await written(event_log, partition, 1, cursor)

    writing = asyncio.create_task(write_on())
    try:
        async with archiving(event_log, store, bounds=Bounds(0.05, 1 << 30, 1 << 30, tell_s=0)):
            for index in (20, 200):
                await archived_up_to(store, partition, Position(1, index))
    finally:
        await end(writing)


def random_texts(size: int) -> list[str]:
    """Return texts that cannot be compressed to nothing, `size` characters in all."""
    return [blake3(b"%d" % n).hexdigest(500_000) for n in range(size // 1_000_000 + 1)]
