"""Archiving many partitions at a time: one is slow, and meanwhile others are many, or fail in a way nobody expects."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from events.archive import Archive
from events.log import Log
from events.objects.memory import MemoryStore
from schemas.archive import segments_of
from schemas.ids import PartitionId
from tests.archives import PREFIX, archived_up_to, archiving, assert_equal, held_up_to, written
from tests.conftest import StartNats
from tests.notes import new_partition, opened_log
from workers.archive import follower, places

REMEMBERED = 2
HELD_S = 0.5  # so long the slow one takes still when another has failed


class Holding(MemoryStore):
    """A store that keeps segments of one partition waiting until `go`, and breaks once on those of another."""

    def __init__(self, slow: PartitionId, breaks: PartitionId | None = None) -> None:
        super().__init__()
        self._slow, self._breaks = slow, breaks
        self.reached, self.broken, self.go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.waiting = self.most_waiting = 0

    async def create(self, key: str, data: bytes) -> str:
        """Store a new object, sooner or later."""
        if self._is_of(key, self._slow):
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
            self.reached.set()
            await self.go.wait()
            self.waiting -= 1
        if self._breaks and self._is_of(key, self._breaks) and not self.broken.is_set():
            await self.reached.wait()
            self.broken.set()
            raise ZeroDivisionError("as asked: a mistake in the code")
        return await super().create(key, data)

    def _is_of(self, key: str, partition: PartitionId) -> bool:
        return key.startswith(f"{PREFIX}/{segments_of('FORGE_DOCS', partition, 1)}")


@pytest_asyncio.fixture
async def event_log(start_nats: StartNats) -> AsyncIterator[Log]:
    async with opened_log(await start_nats()) as opened:
        yield opened


async def test_a_partition_whose_place_is_forgotten_while_it_is_archived_is_found_again(
    event_log: Log, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PR4, PR7: its segment waits for the store, meanwhile more others are archived than are remembered."""
    monkeypatch.setattr(places, "PLACES_MAX", REMEMBERED)
    slow, others = new_partition(), [new_partition() for _ in range(3 * REMEMBERED)]
    store = Holding(slow)
    ends = {one: await written(event_log, one, 3) for one in (slow, *others)}
    async with archiving(event_log, store):
        await store.reached.wait()
        for one in others:
            await held_up_to(store, one, ends[one].position)
        store.go.set()
        for one, end in ends.items():
            await archived_up_to(store, one, end.position)
    for one in ends:
        await assert_equal(Archive(store, PREFIX), event_log.reader, one)
    assert "archiving failed" not in capsys.readouterr().out


async def test_whatever_breaks_no_partition_is_archived_twice_at_the_same_time(
    event_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PR4: else the first one forgets what the second one has read since."""
    monkeypatch.setattr(follower, "RETRY_S", 0.01)
    slow, breaks = new_partition(), new_partition()
    store = Holding(slow, breaks)
    ends = {one: await written(event_log, one, 3) for one in (slow, breaks)}
    async with archiving(event_log, store):
        await store.broken.wait()
        ends[slow] = await written(event_log, slow, 1, ends[slow])
        asyncio.get_running_loop().call_later(HELD_S, store.go.set)
        for one, end in ends.items():
            await archived_up_to(store, one, end.position)
    for one in ends:
        await assert_equal(Archive(store, PREFIX), event_log.reader, one)
    assert store.most_waiting == 1
