"""How far the archive says that it is: later than it is there, and found again whatever happens between."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from events.archive import Archive
from events.archived_place import archived_end, recorded_place
from events.cursor import Cursor
from events.log import Log
from events.objects.memory import MemoryStore
from events.objects.port import Object, checksum
from forge.stack.nats import NatsServer
from schemas.archive import Mark, mark_key, place_key
from schemas.ids import START, PartitionId
from tests.archives import PREFIX, WAIT_S, archived_up_to, archiving, assert_equal, held_up_to, segment_keys, written
from tests.conftest import StartNats
from tests.faults.killer import fresh_seed
from tests.notes import eventually, new_partition, opened_log
from workers.archive.archiver import Archiver
from workers.archive.follower import Bounds
from workers.archive.sealing import SEGMENTS_UNTOLD_MAX

LATE = Bounds(seal_s=0.02, seal_bytes=1 << 20, memory_bytes=4 << 20, tell_s=3600)


@pytest_asyncio.fixture
async def event_log(start_nats: StartNats) -> AsyncIterator[Log]:
    """A server without the records of other tests, so that marks are of these."""
    async with opened_log(await start_nats()) as opened:
        yield opened


async def segments_of(
    event_log: Log, store: MemoryStore, partition: PartitionId, count: int, after: Cursor | None = None
) -> Cursor:
    """Write and wait until so many more segments are stored, of a record each."""
    cursor = after or Cursor.start(partition)
    for _ in range(count):
        cursor = await written(event_log, partition, 1, cursor)
        await held_up_to(store, partition, cursor.position)
    return cursor


async def test_a_position_is_told_when_it_is_time_although_nothing_comes(event_log: Log) -> None:
    """PR4: of one partition that is quiet since, while another one is written."""
    store, partition = MemoryStore(), new_partition()
    archive = Archive(store, PREFIX)
    async with archiving(event_log, store, bounds=replace(LATE, tell_s=0.3)) as archiver:
        end = await segments_of(event_log, store, partition, 1)
        assert known(archiver, partition) == end
        place = None
        async with asyncio.timeout(WAIT_S):
            while place != end:
                await asyncio.sleep(0.02)
                place = (await recorded_place(archive, partition)).cursor


async def test_what_no_position_tells_is_found_by_the_next_archiver(event_log: Log) -> None:
    """PR4: killed after several segments, before it said anything; the mark stays where that is found."""
    store, partition, other = MemoryStore(), new_partition(), new_partition()
    async with archiving(event_log, store, bounds=LATE):
        await segments_of(event_log, store, other, 1)
        end = await segments_of(event_log, store, partition, 5)
        await eventually(lambda: f"{PREFIX}/{mark_key('FORGE_DOCS')}" in store.objects)
        killed = MemoryStore()
        killed.objects = dict(store.objects)
    archive = Archive(killed, PREFIX)
    assert (await recorded_place(archive, partition)).cursor.position == START
    assert Mark.model_validate_json(killed.objects[archive.key(mark_key("FORGE_DOCS"))].data).sequence == 0

    async with archiving(event_log, killed):
        end = await segments_of(event_log, killed, partition, 1, end)

    for one in (partition, other):
        await assert_equal(archive, event_log.reader, one)
    assert len(segment_keys(killed, partition)) == 6


async def test_a_position_is_told_after_so_many_segments_at_the_latest(event_log: Log) -> None:
    """PR7: more need not be found again after a crash."""
    store, partition = MemoryStore(), new_partition()
    async with archiving(event_log, store, bounds=LATE):
        end = await segments_of(event_log, store, partition, SEGMENTS_UNTOLD_MAX - 1)
        assert f"{PREFIX}/{place_key('FORGE_DOCS', partition)}" not in store.objects
        await segments_of(event_log, store, partition, 2, end)

        told = await recorded_place(Archive(store, PREFIX), partition)

    assert told.cursor.position.index >= SEGMENTS_UNTOLD_MAX


async def test_a_position_that_somebody_removed_is_told_anew(event_log: Log) -> None:
    """PR4: by the archiver that had told it, too."""
    store, partition = MemoryStore(), new_partition()
    async with archiving(event_log, store):
        end = await written(event_log, partition, 3)
        await archived_up_to(store, partition, end.position)
        del store.objects[f"{PREFIX}/{place_key('FORGE_DOCS', partition)}"]
        end = await written(event_log, partition, 2, end)
        await archived_up_to(store, partition, end.position)
    await assert_equal(Archive(store, PREFIX), event_log.reader, partition)


@pytest.mark.parametrize("noticed", [True, False], ids=["by the store", "by what it says"])
async def test_a_damaged_mark_is_written_anew(event_log: Log, noticed: bool) -> None:
    """PR4: it only spares a look at the stream."""
    store, partition = MemoryStore(), new_partition()
    async with archiving(event_log, store):
        end = await written(event_log, partition, 3)
        await archived_up_to(store, partition, end.position)
    key, damaged = f"{PREFIX}/{mark_key('FORGE_DOCS')}", b"{}"
    store.objects[key] = Object(damaged, store.objects[key].tag if noticed else checksum(damaged))
    async with archiving(event_log, store) as archiver:
        end = await written(event_log, partition, 2, end)
        await archived_up_to(store, partition, end.position)
    assert not archiver.left_some
    await assert_equal(Archive(store, PREFIX), event_log.reader, partition)
    assert Mark.model_validate_json((await store.get(key)).data).sequence == end.sequence


async def test_a_stop_tells_all_positions(event_log: Log) -> None:
    """PR4: the next start has nothing to find."""
    store, partitions = MemoryStore(), [new_partition() for _ in range(40)]
    archive = Archive(store, PREFIX)
    async with archiving(event_log, store, bounds=LATE) as archiver:
        ends = [await written(event_log, partition, 1) for partition in partitions]
        for partition, end in zip(partitions, ends, strict=True):
            await held_up_to(store, partition, end.position)
        assert (await recorded_place(archive, partitions[0])).cursor.position == START

    assert not archiver.left_some
    for partition, end in zip(partitions, ends, strict=True):
        assert (await recorded_place(archive, partition)).cursor == end
    mark = Mark.model_validate_json(store.objects[archive.key(mark_key("FORGE_DOCS"))].data)
    assert mark.sequence == ends[-1].sequence


async def test_what_is_appended_here_is_not_read_back(event_log: Log) -> None:
    """PR4: and what the archive gets is the same."""
    store, partition = MemoryStore(), new_partition()
    async with archiving(event_log, store):
        end = await segments_of(event_log, store, partition, 1)
        before = (await event_log.reader.client()).stats["in_msgs"]
        end = await written(event_log, partition, 200, end)
        await held_up_to(store, partition, end.position)
        answers = (await event_log.reader.client()).stats["in_msgs"] - before

    assert answers < 100
    await assert_equal(Archive(store, PREFIX), event_log.reader, partition)
    assert (await archived_end(Archive(store, PREFIX), partition)).cursor == end


async def test_what_others_append_is_archived_with_what_is_appended_here(start_nats: StartNats) -> None:
    """PR4: in any order, whether they tell of it or not; also when nothing is appended here any more."""
    rng, store, server = random.Random(fresh_seed()), MemoryStore(), await start_nats()
    async with opened_log(server) as event_log, opened_log(server) as other, archiving(event_log, store):
        cursors = {partition: Cursor.start(partition) for partition in (new_partition() for _ in range(3))}
        for writers in ([event_log, other] * 20, [event_log] * 20, [other] * 10):
            for writer in writers:
                partition = rng.choice(list(cursors))
                cursors[partition] = await written(writer, partition, rng.randrange(1, 4), cursors[partition])
                await asyncio.sleep(rng.choice([0, 0, 0.03]))
        for partition, end in cursors.items():
            await held_up_to(store, partition, end.position)
    for partition in cursors:
        await assert_equal_to(server, store, partition)


async def assert_equal_to(server: NatsServer, store: MemoryStore, partition: PartitionId) -> None:
    """Compare what is archived with what the server has."""
    async with opened_log(server) as event_log:
        await assert_equal(Archive(store, PREFIX), event_log.reader, partition)


def known(archiver: Archiver, partition: PartitionId) -> Cursor:
    """Return how far a partition is archived, as the archiver knows it."""
    found = archiver.known(partition)
    assert found is not None
    return found
