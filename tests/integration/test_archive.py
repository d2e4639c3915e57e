"""The archiver against a real log: what it stores, what it survives, and reading on in the archive."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from events.append import Appended, append
from events.archive import Archive
from events.cursor import Cursor
from events.errors import ChainMismatch, LogGap, LogUnavailable
from events.log import Log
from events.objects.errors import StoreUnavailable
from events.objects.memory import MemoryStore
from events.objects.port import Object
from events.read import check_end, follow, read
from events.seek import BelowFloor, extent, seek, seek_time
from events.streams import ensure_streams
from schemas.archive import SegmentKey, mark_key, place_key
from schemas.ids import START, PartitionId, Position
from tests.archives import PREFIX, archived_up_to, archiving, assert_equal, segment_keys, written
from tests.failing_store import Failing
from tests.faults.nats_server import NatsServer
from tests.notes import NoteAdded, eventually, new_partition, record_after
from workers.archive.follower import Bounds


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server whose user may do anything, purging too."""
    (tmp_path / "store").mkdir()
    async with NatsServer(tmp_path, tmp_path / "store", sync_always=False) as running:
        yield running


@pytest_asyncio.fixture
async def event_log(server: NatsServer) -> AsyncIterator[Log]:
    opened = Log(server.url, "")
    await ensure_streams(await opened.admin.jetstream(), 1)
    yield opened
    await opened.close()


async def purge(event_log: Log, partition: PartitionId, *, keep: int = 1) -> None:
    """Remove all but the newest messages of a partition from the log."""
    jetstream = await event_log.admin.jetstream()
    await jetstream.purge_stream("FORGE_DOCS", subject=partition.subject, keep=keep)


async def test_everything_that_is_written_is_archived(event_log: Log) -> None:
    """PR4: records before the archiver began and after, of several partitions, each once and in order."""
    store, partitions = MemoryStore(), [new_partition() for _ in range(5)]
    ends = [await written(event_log, partition, 20) for partition in partitions]

    async with archiving(event_log, store):
        for partition, end in zip(partitions, ends, strict=True):
            await archived_up_to(store, partition, end.position)
        ends = [await written(event_log, p, 20, end) for p, end in zip(partitions, ends, strict=True)]
        for partition, end in zip(partitions, ends, strict=True):
            await archived_up_to(store, partition, end.position)

    for partition in partitions:
        await assert_equal(Archive(store, PREFIX), event_log.reader, partition)


async def test_what_waits_is_archived_when_the_node_stops(event_log: Log) -> None:
    """A graceful stop leaves nothing for the next start."""
    store, partition = MemoryStore(), new_partition()
    bounds = Bounds(seal_s=3600, seal_bytes=1 << 30, memory_bytes=1 << 30)
    async with archiving(event_log, store, bounds=bounds) as archiver:
        end = await written(event_log, partition, 3)
        await eventually(lambda: all(stream.backlog is not None for stream in archiver._streams))

    await assert_equal(Archive(store, PREFIX), event_log.reader, partition)
    assert segment_keys(store, partition)[-1].last == end.position.index


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("after", range(1, 9))
async def test_a_call_that_fails_is_repeated_without_gap_or_repetition(event_log: Log, after: int, done: bool) -> None:
    """PR5: also when it was done and only its answer was lost, and new records have come meanwhile."""
    store, partition = Failing(after, done=done), new_partition()

    async with archiving(event_log, store):
        cursor = Cursor.start(partition)
        for n in range(1, 7):
            cursor = await written(event_log, partition, 2, cursor)
            if n % 2:
                await archived_up_to(store, partition, cursor.position)
        await archived_up_to(store, partition, cursor.position)

    await assert_equal(Archive(store, PREFIX), event_log.reader, partition)


async def test_an_archiver_that_died_is_followed_by_the_next(event_log: Log) -> None:
    """PR4: whatever of segment, position and mark it had stored."""
    whole, partition = MemoryStore(), new_partition()
    async with archiving(event_log, whole):
        cursor = Cursor.start(partition)
        for _ in range(3):
            cursor = await written(event_log, partition, 2, cursor)
            await archived_up_to(whole, partition, cursor.position)
    cursor = await written(event_log, partition, 3, cursor)
    keys = [f"{PREFIX}/{key}" for key in segment_keys(whole, partition)]
    place, mark = (f"{PREFIX}/{key}" for key in (place_key("FORGE_DOCS", partition), mark_key("FORGE_DOCS")))
    for lost in ([keys[-1], place, mark], [place, mark], [place], [mark], [], [*keys, place]):
        store = MemoryStore()
        store.objects = {key: found for key, found in whole.objects.items() if key not in lost}

        async with archiving(event_log, store):
            cursor = await written(event_log, partition, 1, cursor)
            await archived_up_to(store, partition, cursor.position)

        await assert_equal(Archive(store, PREFIX), event_log.reader, partition)


async def test_an_archive_of_another_history_is_left_alone(event_log: Log) -> None:
    """PR3: loudly, for that partition alone, and nothing in it is changed."""
    partition, sound = new_partition(), new_partition()
    theirs = MemoryStore()
    async with archiving(event_log, theirs):
        end = await written(event_log, partition, 4)
        await archived_up_to(theirs, partition, end.position)
    before = dict(theirs.objects)
    jetstream = await event_log.admin.jetstream()
    await jetstream.delete_stream("FORGE_DOCS")
    await ensure_streams(jetstream, 1)

    await written(event_log, partition, 9)
    end = await written(event_log, sound, 3)
    async with archiving(event_log, theirs) as archiver:
        await archived_up_to(theirs, sound, end.position)
        await eventually(lambda: any(stream.stopped for stream in archiver._streams))
        (stopped,) = [lag.stopped for lag in await archiver.lag() if lag.stopped]

    assert "two nodes wrote it apart" in stopped[str(partition)]
    assert archiver.left_some, "the writer lease would be handed over, and its records lost to whoever takes it"
    same = [key for key in before if partition.token in key]
    assert {key: theirs.objects[key] for key in same} == {key: before[key] for key in same}


async def test_a_segment_of_other_records_is_damage(event_log: Log) -> None:
    """PR3: where a segment has to be stored there is one already, of other content."""
    store, partition, other = MemoryStore(), new_partition(), new_partition()
    async with archiving(event_log, store) as archiver:
        end = await written(event_log, other, 1)
        await archived_up_to(store, other, end.position)
        (found,) = segment_keys(store, other)
        planted = f"{PREFIX}/{SegmentKey('FORGE_DOCS', partition, 1, 1, 1)}"
        store.objects[planted] = store.objects[f"{PREFIX}/{found}"]
        await written(event_log, partition, 1)

        await eventually(lambda: any(stream.stopped for stream in archiver._streams))

    assert store.objects[planted] == store.objects[f"{PREFIX}/{found}"]


async def test_idle_partitions_cost_nothing(event_log: Log) -> None:
    """Not one question about any of them is asked, neither at the next start nor later."""
    store, idle, busy = MemoryStore(), [new_partition() for _ in range(50)], new_partition()
    async with archiving(event_log, store):
        for partition in idle:
            end = await written(event_log, partition, 1)
        for partition in idle:
            await archived_up_to(store, partition, Position(1, 1))
    asked: list[str] = []

    class Listening(MemoryStore):
        async def get(self, key: str) -> Object:
            asked.append(key)
            return await super().get(key)

    listening = Listening()
    listening.objects = store.objects
    async with archiving(event_log, listening):
        end = await written(event_log, busy, 3)
        await archived_up_to(store, busy, end.position)

    assert not [key for key in asked if any(partition.token in key for partition in idle)]


async def test_reading_goes_on_in_the_archive(event_log: Log) -> None:
    """PR4: the same records with the same places, whatever of them the log still holds."""
    store, partition = MemoryStore(), new_partition()
    async with archiving(event_log, store):
        end = await written(event_log, partition, 30)
        await archived_up_to(store, partition, end.position)
    everything = [entry async for entry in read(event_log.reader, partition, Cursor.start(partition))]
    event_log.reader.archive = Archive(store, PREFIX)

    for keep in (20, 1):
        await purge(event_log, partition, keep=keep)

        for index in (0, 1, 9, 10, 11, 28, 29, 30):
            after = everything[index - 1].cursor if index else Cursor.start(partition)
            assert [entry async for entry in read(event_log.reader, partition, after)] == everything[index:]
            assert (await seek(event_log.reader, partition, after.position)).hash == after.hash
            await check_end(event_log.reader, partition, after)
        assert await extent(event_log.reader, partition) == (Position(1, 1), end.position)


async def test_a_follower_does_not_see_the_seam(event_log: Log) -> None:
    """PR4: from the archive, through the log, to what is written meanwhile."""
    store, partition = MemoryStore(), new_partition()
    async with archiving(event_log, store):
        end = await written(event_log, partition, 10)
        await archived_up_to(store, partition, end.position)
    await purge(event_log, partition)
    event_log.reader.archive = Archive(store, PREFIX)
    found: list[int] = []

    following = follow(event_log.reader, event_log.live, partition, Cursor.start(partition))
    async for entry in following:
        found.append(entry.cursor.position.index)
        if len(found) in (10, 12):
            end = await written(event_log, partition, 2, end)
        if len(found) == 14:
            break
    await following.aclose()

    assert found == list(range(1, 15))


async def test_times_are_found_in_the_archive(event_log: Log) -> None:
    """PR4: as they are found in the log."""
    store, partition = MemoryStore(), new_partition()
    cursor, times = Cursor.start(partition), []
    async with archiving(event_log, store):
        for n in range(40):
            times.append(f"2026-01-02T03:{n:02}:00.000000Z")
            record = record_after(cursor, partition, [NoteAdded(text="x")], time=times[-1])
            outcome = await append(event_log.writer, record, cursor.sequence)
            assert isinstance(outcome, Appended)
            cursor = Cursor(record.position, record.hash, outcome.sequence)
            await event_log.live.send(partition.live_subject, b"")
            if n % 7 == 0:
                await archived_up_to(store, partition, cursor.position)
        await archived_up_to(store, partition, cursor.position)
    instants = ["2026-01-01T00:00:00.000000Z", *times, *(f"{time[:17]}30.000000Z" for time in times)]
    from_log = [await seek_time(event_log.reader, partition, instant) for instant in instants]

    await purge(event_log, partition)
    with pytest.raises(BelowFloor):
        await seek_time(event_log.reader, partition, instants[5])
    event_log.reader.archive = Archive(store, PREFIX)

    assert [await seek_time(event_log.reader, partition, instant) for instant in instants] == from_log


async def test_a_gap_in_the_archive_is_told(event_log: Log) -> None:
    """PR4: nothing is skipped; nor is a record of another history taken."""
    store, partition = MemoryStore(), new_partition()
    async with archiving(event_log, store):
        cursor = Cursor.start(partition)
        for _ in range(3):
            cursor = await written(event_log, partition, 3, cursor)
            await archived_up_to(store, partition, cursor.position)
    await purge(event_log, partition)
    archive = event_log.reader.archive = Archive(store, PREFIX)
    keys = [f"{PREFIX}/{key}" for key in segment_keys(store, partition)]
    taken = store.objects.pop(keys[1])

    with pytest.raises(LogGap, match=r"neither in the log nor in its archive|missing"):
        [entry async for entry in read(event_log.reader, partition, Cursor.start(partition))]
    store.objects[keys[1]] = taken
    with pytest.raises(ChainMismatch):
        [entry async for entry in archive.read(partition, Cursor(START, "00" * 16, 0), cursor.position)]


async def test_an_archive_that_is_away_is_no_gap(event_log: Log) -> None:
    """PR7: who reads is told to come again."""

    class Away(MemoryStore):
        async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Any:
            raise StoreUnavailable("away")

    partition = new_partition()
    await written(event_log, partition, 3)
    await purge(event_log, partition)
    event_log.reader.archive = Archive(Away(), PREFIX)

    with pytest.raises(LogUnavailable, match="archive"):
        [entry async for entry in read(event_log.reader, partition, Cursor.start(partition))]
