"""Retention of the log on a real server: what leaves it, what stays, and reading on in the archive."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest_asyncio

from events.append import Appended, append, last_message
from events.archive import Archive
from events.cursor import Cursor, Entry
from events.errors import LogError
from events.log import Log
from events.objects.memory import MemoryStore
from events.objects.port import Object
from events.purge import purge
from events.read import check_end, message_position, messages_from, read
from events.seek import extent, seek
from events.streams import ensure_streams, stream_state
from forge.log_retention_service import LogRetentionService
from schemas.ids import START, PartitionId, Position
from schemas.instants import now
from tests.archives import PREFIX, archived_up_to, archiving, written
from tests.faults.nats_server import NatsServer
from tests.notes import NoteAdded, append_note, new_partition, record_after
from workers.log_retention.keeper import Limits, LogKeeper
from workers.log_retention.looking import Sources
from workers.log_retention.rule import Bounds, Follower

KEEP_ONE = Bounds(1, 0)
SEED = 20261128
LARGE = 6 << 20  # bytes that do not compress; more than one message takes


class Kept:
    """A keeper with what a test says of generations and replicas, and what it was told to evict."""

    def __init__(self, event_log: Log, store: MemoryStore, *, bounds: Bounds = KEEP_ONE, cap: int = 0) -> None:
        self.covered = 10**9
        self.followers: list[Follower] = []
        self.evicted: list[str] = []
        self.archive = Archive(store, PREFIX)
        event_log.reader.archive = self.archive
        sources = Sources(event_log.reader, self.archive, self._covered, self._followers, now)
        self.keeper = LogKeeper(event_log, sources, Limits(60, bounds, cap), self._evict)

    async def _covered(self, _: PartitionId) -> int:
        return self.covered

    def _followers(self, _: PartitionId) -> Sequence[Follower]:
        return self.followers

    async def _evict(self, _: PartitionId, name: str, reason: str) -> None:
        assert reason
        self.evicted.append(name)
        self.followers = [one for one in self.followers if one.name != name]


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server on a store that survives kills."""
    (tmp_path / "store").mkdir()
    async with NatsServer(tmp_path, tmp_path / "store", sync_always=False) as running:
        yield running


@pytest_asyncio.fixture
async def event_log(server: NatsServer) -> AsyncIterator[Log]:
    opened = Log(server.url, "")
    await ensure_streams(await opened.admin.jetstream(), 1)
    yield opened
    await opened.close()


async def first_index(event_log: Log, partition: PartitionId) -> int:
    """Return the first record of a partition that the server still has."""
    return message_position((await messages_from(event_log.reader, partition, 1, 1))[0]).index


async def everything(event_log: Log, partition: PartitionId) -> list[Entry]:
    async with aclosing(read(event_log.reader, partition, Cursor.start(partition))) as entries:
        return [entry async for entry in entries]


async def test_what_is_archived_and_covered_leaves_and_is_read_from_the_archive(event_log: Log) -> None:
    """K4.2, PR4: the newest record stays, appending goes on, and history, places and ends are as before."""
    store, partition, other = MemoryStore(), new_partition(), new_partition()
    end = await written(event_log, partition, 60)
    before = await everything(event_log, partition)
    kept = Kept(event_log, store)
    async with archiving(event_log, store):
        await archived_up_to(store, partition, end.position)
    await written(event_log, other, 1)  # of one record, which is the newest, nothing can go

    await kept.keeper.round()

    assert await first_index(event_log, partition) == 60
    assert await first_index(event_log, other) == 1
    assert [e.record for e in await everything(event_log, partition)] == [e.record for e in before]
    assert await check_end(event_log.reader, partition, end) == end.position
    assert await check_end(event_log.reader, partition, before[20].cursor) == end.position
    assert await extent(event_log.reader, partition) == (START.next(), end.position)
    assert await seek(event_log.reader, partition, Position(1, 7)) == before[6].cursor
    end = await append_note(event_log, partition, end)
    assert (await everything(event_log, partition))[-1].cursor == end


async def test_each_who_needs_records_keeps_them(event_log: Log) -> None:
    """K4.2: what is not archived, no generation holds, a replica lacks, or the bounds keep; and it is said who."""
    store, partition = MemoryStore(), new_partition()
    end = await written(event_log, partition, 40)
    async with archiving(event_log, store):
        await archived_up_to(store, partition, end.position)
    await written(event_log, partition, 20, end)
    kept = Kept(event_log, store)
    kept.followers, kept.covered = [Follower("laptop", 10), Follower("phone", 20)], 30

    report = await kept.keeper.round()
    assert await first_index(event_log, partition) == 11
    assert report.held == ((str(partition), "replica laptop", 10),)
    assert (await kept.keeper.round()).held == report.held
    assert (await kept.keeper.round()).held == report.held  # which was not even looked at again: it rests
    kept.keeper._resting.clear()
    kept.followers = []
    await kept.keeper.round()
    assert await first_index(event_log, partition) == 31
    kept.covered = 60
    kept.keeper._resting.clear()
    report = await kept.keeper.round()
    assert await first_index(event_log, partition) == 41
    assert report.held == ((str(partition), "archive", 19),)
    keeping = Kept(event_log, store, bounds=Bounds(25, 0))
    async with archiving(event_log, store):
        await archived_up_to(store, partition, Position(1, 60))
    await keeping.keeper.round()
    assert await first_index(event_log, partition) == 41


async def test_a_record_of_several_messages_leaves_whole(event_log: Log) -> None:
    """K4.2: of an atomic batch no part stays alone; nor is the newest record cut."""
    store, partition = MemoryStore(), new_partition()
    end = await written(event_log, partition, 2)
    large = NoteAdded(text=random.Random(7).randbytes(LARGE).hex())
    for _ in range(2):
        record = record_after(end, partition, [large])
        outcome = await append(event_log.writer, record, end.sequence)
        assert isinstance(outcome, Appended)
        assert outcome.sequence > end.sequence + 1
        end = Cursor(record.position, record.hash, outcome.sequence)
    await event_log.live.send(partition.live_subject, b"")
    kept = Kept(event_log, store)
    async with archiving(event_log, store):
        await archived_up_to(store, partition, end.position)

    kept.followers = [Follower("laptop", 2)]
    await kept.keeper.round()
    assert await first_index(event_log, partition) == 3
    kept.followers = []
    await kept.keeper.round()
    assert await first_index(event_log, partition) == 4
    assert (await everything(event_log, partition))[-1].cursor == end
    await append_note(event_log, partition, end)


async def test_an_archive_of_another_history_lets_nothing_go(event_log: Log) -> None:
    """K4.2: it is compared by the hash of the very record at which the log is cut."""
    store, partition = MemoryStore(), new_partition()
    end = await written(event_log, partition, 5)
    async with archiving(event_log, store):
        await archived_up_to(store, partition, end.position)
    await purge(event_log.admin, partition)
    cursor = Cursor.start(partition)
    for number in range(9):
        cursor = await append_note(event_log, partition, cursor, f"another {number}")
    kept = Kept(event_log, store)

    report = await kept.keeper.round()

    assert "another history" in report.trouble
    assert await first_index(event_log, partition) == 1


async def test_stalled_replicas_go_before_the_disk_is_full_and_nothing_else_does(event_log: Log) -> None:
    """K4.2: over the cap the bounds are dropped, then the stalled are evicted, and who is heard never is."""
    store, partition = MemoryStore(), new_partition()
    end = await written(event_log, partition, 50)
    async with archiving(event_log, store):
        await archived_up_to(store, partition, end.position)
    kept = Kept(event_log, store, bounds=Bounds(1000, 1000), cap=1)
    kept.followers = [Follower("heard", 30), Follower("silent", 10, stalled=True)]

    report = await kept.keeper.round()

    assert kept.evicted == ["silent"]
    assert await first_index(event_log, partition) == 31
    assert report.held == ((str(partition), "replica heard", 19),)
    (check,) = await LogRetentionService(kept.keeper).checks()
    assert not check.ok
    assert f"19 records of {partition} by replica heard" in check.value
    kept.followers = []
    await kept.keeper.round()
    assert await first_index(event_log, partition) == 50


async def answered(event_log: Log) -> None:
    """Wait until the log answers again."""
    async with asyncio.timeout(30):
        while True:
            try:
                await asyncio.gather(*(stream_state(one, "FORGE_DOCS") for one in (event_log.reader, event_log.admin)))
                return
            except LogError:
                await asyncio.sleep(0.05)


class KillingStore(MemoryStore):
    """Kills the server when something is read the n-th time, in the middle of a look at a partition."""

    def __init__(self, server: NatsServer) -> None:
        super().__init__()
        self._server = server
        self.left: int | None = None

    async def get(self, key: str) -> Object:
        """Read, and perhaps kill."""
        if self.left == 0:
            await self._server.stop(signal.SIGKILL)
        self.left = None if self.left is None or self.left == 0 else self.left - 1
        return await super().get(key)


async def test_kills_between_decision_and_purge_lose_nothing(server: NatsServer, event_log: Log) -> None:
    """K4.2, PR1: the server dies at any moment of many rounds; what was there is there, in the log or the archive."""
    rng = random.Random(SEED)
    print("seed", SEED)
    store, partition = KillingStore(server), new_partition()
    kept = Kept(event_log, store)
    cursor, at = Cursor.start(partition), 0
    for _ in range(6):
        cursor = await written(event_log, partition, 20, cursor)
        async with archiving(event_log, store):
            await archived_up_to(store, partition, cursor.position)
        before = [entry.record for entry in await everything(event_log, partition)]
        kept.followers = [Follower("laptop", at := rng.randint(at + 1, cursor.position.index))]
        store.left = rng.randint(0, 1)  # before it is decided, or after that and before the purge
        report = await kept.keeper.round()
        assert report.trouble
        await server.start()
        await answered(event_log)
        assert not (await kept.keeper.round()).trouble
        await server.restart(signal.SIGKILL)  # at once after the purge was answered
        await answered(event_log)
        last = await last_message(event_log.reader, partition)
        assert last is not None
        assert message_position(last) == cursor.position
        assert await first_index(event_log, partition) <= at + 1
        assert [entry.record for entry in await everything(event_log, partition)] == before
