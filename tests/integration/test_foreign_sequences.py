"""Reading on from archived records in another log than theirs, which keeps what it has elsewhere."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from events.append import Appended, append
from events.archive import Archive
from events.cursor import Cursor, Entry
from events.errors import LogDamaged
from events.log import Log
from events.objects.memory import MemoryStore
from events.purge import purge
from events.read import check_end, read
from events.seek import seek
from events.streams import ensure_streams
from schemas.ids import PartitionId, Position
from tests.archives import PREFIX, archived_up_to, archiving, written
from tests.faults.nats_server import NatsServer
from tests.notes import append_note, new_partition

RECORDS, FILLERS = 20, 50


@dataclass(frozen=True)
class Moved:
    """A partition of archived records, and another log that goes on with it: it begins with the newest of them."""

    log: Log
    store: MemoryStore
    partition: PartitionId
    entries: list[Entry]
    end: Cursor


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Log]:
    """Give the log of a server of its own."""
    (directory / "store").mkdir(parents=True)
    async with NatsServer(directory, directory / "store", sync_always=False) as server:
        event_log = Log(server.url, "")
        try:
            await ensure_streams(await event_log.admin.jetstream(), 1)
            yield event_log
        finally:
            await event_log.close()


@pytest_asyncio.fixture
async def moved(tmp_path: Path) -> AsyncIterator[Moved]:
    """Archive a log in which the partition begins late, and begin another log with its newest record."""
    store, partition = MemoryStore(), new_partition()
    async with opened(tmp_path / "old") as old:
        await written(old, new_partition(), FILLERS)
        end = await written(old, partition, RECORDS)
        async with archiving(old, store):
            await archived_up_to(store, partition, end.position)
        entries = [entry async for entry in read(old.reader, partition, Cursor.start(partition))]
    async with opened(tmp_path / "new") as event_log:
        outcome = await append(event_log.writer, entries[-1].record, 0)
        assert isinstance(outcome, Appended)
        event_log.reader.archive = Archive(store, PREFIX)
        yield Moved(event_log, store, partition, entries, Cursor(end.position, end.hash, outcome.sequence))


async def indexes(moved: Moved, after: Cursor) -> list[int]:
    return [entry.cursor.position.index async for entry in read(moved.log.reader, moved.partition, after)]


@pytest.mark.parametrize("more", [0, 1, 3, 2 * FILLERS])
async def test_whatever_an_archived_place_says_of_its_log_everything_after_it_is_read(moved: Moved, more: int) -> None:
    """PR4, K4.2: no record is passed over, and none comes twice, however many the new log has and has not archived."""
    end, last = moved.end, RECORDS
    for _ in range(more):
        end, last = await append_note(moved.log, moved.partition, end), last + 1
    for index in (0, 1, 7, RECORDS - 1, RECORDS):
        found = await seek(moved.log.reader, moved.partition, Position(1, index))
        assert await indexes(moved, found) == list(range(index + 1, last + 1))
        if index:
            archived = moved.entries[index - 1].cursor
            assert archived.sequence == FILLERS + index
            assert await indexes(moved, archived) == list(range(index + 1, last + 1))
    assert await indexes(moved, end) == []


async def test_a_reader_that_stopped_in_the_archive_goes_on_from_there(moved: Moved) -> None:
    """PR4: the place where it stopped names a sequence of the old log."""
    await append_note(moved.log, moved.partition, moved.end)
    for stop in (3, RECORDS - 1):
        cursor = Cursor.start(moved.partition)
        async for entry in read(moved.log.reader, moved.partition, cursor):
            cursor = entry.cursor
            if cursor.position.index == stop:
                break
        assert await indexes(moved, cursor) == list(range(stop + 1, RECORDS + 2))


@pytest.mark.parametrize("more", [0, 2 * FILLERS])
async def test_a_projection_that_stopped_in_the_archive_opens_again(moved: Moved, more: int) -> None:
    """PR2, PR4: it is compared with the archived record; another one under that position is another history."""
    end = moved.end
    for _ in range(more):
        end = await append_note(moved.log, moved.partition, end)
    for entry in moved.entries[:-1]:
        known = entry.cursor
        assert await check_end(moved.log.reader, moved.partition, known) == end.position
        with pytest.raises(LogDamaged):
            await check_end(moved.log.reader, moved.partition, replace(known, hash="0" * 32))


async def test_a_place_whose_record_has_left_the_log_is_one_like_any_other(moved: Moved) -> None:
    """K4.2: what follows it is there, or in the archive."""
    cursors = [moved.end]
    for _ in range(9):
        cursors.append(await append_note(moved.log, moved.partition, cursors[-1]))
    async with archiving(moved.log, moved.store):
        await archived_up_to(moved.store, moved.partition, cursors[-1].position)
    await purge(moved.log.admin, moved.partition, below=cursors[5].sequence)
    for at, cursor in enumerate(cursors):
        assert await indexes(moved, cursor) == list(range(RECORDS + at + 1, RECORDS + 10))
