"""Histories of several epochs in an archive: what a writer stores after another took over is not read by anybody."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from events.archive import EVERYTHING, Archive
from events.archived_place import archived_end, recorded_place
from events.cursor import Cursor, Entry
from events.epoch_ends import begin_epoch
from events.epochs import EpochTaken
from events.errors import LogDamaged
from events.objects.memory import MemoryStore
from events.objects.port import Object
from events.segment import seal
from events.streams import stream_of
from schemas.archive import ArchivedPlace, EpochTable, SegmentKey, Span, epoch_key, place_key
from schemas.ids import START, PartitionId, Position
from tests.notes import TIME, NoteAdded, record_after

PREFIX = "p"
PARTITIONS = [PartitionId("doc", "a"), PartitionId("doc", "b"), PartitionId("control")]


class Writer:
    """A node that has become the writer: its log begins with what was archived, and goes on in its epoch."""

    def __init__(self, store: MemoryStore, epoch: int) -> None:
        self.store = store
        self.epoch = epoch
        self.logs: dict[PartitionId, list[Entry]] = {}
        self.archived: dict[PartitionId, int] = {}
        self.tags: dict[PartitionId, str] = {}

    async def take_over(self) -> None:
        """Begin the epoch, and take what counts from the archive."""
        archive = Archive(self.store, PREFIX)
        await begin_epoch(archive, self.epoch, node=f"node-{self.epoch}", time=TIME)
        for partition in PARTITIONS:
            self.logs[partition] = await history_of(archive, partition)
            self.archived[partition] = len(self.logs[partition])
            self.tags[partition] = (await recorded_place(archive, partition)).tag

    def append(self, partition: PartitionId, count: int) -> None:
        """Write `count` records to its own log."""
        log = self.logs[partition]
        for _ in range(count):
            before = log[-1].cursor if log else Cursor.start(partition)
            record = record_after(before, partition, [NoteAdded(text=f"{self.epoch}")])
            record = replace(record, position=before.position.next(self.epoch))
            log.append(Entry(record, Cursor(record.position, record.hash, before.sequence + 1)))

    async def archive(self, partition: PartitionId, count: int, *, tell: bool) -> None:
        """Archive up to `count` more records in one segment, and perhaps say so."""
        log, begin = self.logs[partition], self.archived[partition]
        entries = log[begin : begin + count]
        if not entries:
            return
        before = log[begin - 1].cursor if begin else Cursor.start(partition)
        first, last = entries[0].cursor.position, entries[-1].cursor.position
        assert first.epoch == last.epoch == self.epoch
        key = SegmentKey(stream_of(partition), partition, self.epoch, first.index, last.index)
        await self.store.create(f"{PREFIX}/{key}", seal(partition, before, entries))
        self.archived[partition] += len(entries)
        if tell:
            await self._tell(partition, entries[-1].cursor)

    async def _tell(self, partition: PartitionId, cursor: Cursor) -> None:
        key, tag = f"{PREFIX}/{place_key(stream_of(partition), partition)}", self.tags[partition]
        place = ArchivedPlace(
            partition=partition.subject, position=str(cursor.position), hash=cursor.hash, sequence=cursor.sequence
        )
        body = place.model_dump_json().encode()
        found = self.store.objects.get(key)
        if (found.tag if found else "") == tag:  # else somebody else was faster
            self.tags[partition] = await (self.store.swap(key, body, tag) if tag else self.store.create(key, body))


async def history_of(archive: Archive, partition: PartitionId, after: Cursor | None = None) -> list[Entry]:
    """Return what a reader finds."""
    return [entry async for entry in archive.read(partition, after or Cursor.start(partition), EVERYTHING)]


class World:
    """Writers that follow each other over one store, while those that lost the lease go on for a while."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.store = MemoryStore()
        self.writers: list[Writer] = []
        self.lost: list[tuple[PartitionId, Entry]] = []

    async def run(self, steps: int) -> None:
        """Do `steps` things in a random order, and compare all readers with the truth after each takeover."""
        await self.take_over()
        for _ in range(steps):
            partition = self.random.choice(PARTITIONS)
            writer = self.random.choice(self.writers[-2:])
            match self.random.choices(["append", "archive", "take over"], weights=(5, 5, 1))[0]:
                case "append":
                    writer.append(partition, self.random.randint(1, 5))
                case "archive":
                    tell = self.random.random() < 0.5
                    await writer.archive(partition, self.random.randint(1, 4), tell=tell)
                case _:
                    await self.take_over()
                    await self.compare()
        await self.compare()

    async def take_over(self) -> None:
        """Let another node become the writer."""
        self.writers.append(Writer(self.store, len(self.writers) + 1))
        await self.writers[-1].take_over()

    async def compare(self) -> None:
        """Fail unless a reader finds what the newest writer has archived, by position too, and nothing else."""
        archive, writer = Archive(self.store, PREFIX), self.writers[-1]
        for partition in PARTITIONS:
            truth = writer.logs[partition][: writer.archived[partition]]
            assert await history_of(archive, partition) == truth
            assert (await archived_end(archive, partition)).cursor == (
                truth[-1].cursor if truth else Cursor.start(partition)
            )
            await self.compare_places(archive, partition, truth)

    async def compare_places(self, archive: Archive, partition: PartitionId, truth: Sequence[Entry]) -> None:
        """Fail unless every position that counts is found, and none that does not."""
        true = {entry.cursor.position for entry in truth}
        for entry in self.random.sample(list(truth), min(3, len(truth))):
            assert await archive.cursor_at(partition, entry.cursor.position) == entry.cursor
            assert await archive.cursor_of(partition, entry.cursor.position.index) == entry.cursor
        for fenced in self.writers[:-1]:
            for entry in fenced.logs[partition]:
                if entry.cursor.position not in true:
                    assert await archive.cursor_at(partition, entry.cursor.position) is None
                    with pytest.raises(LogDamaged):
                        await history_of(archive, partition, entry.cursor)
                    break


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_what_fenced_writers_store_is_no_history(seed: int) -> None:
    """G11 and PR3: whatever a fenced writer stores late, and however it cuts it, readers find the newest one's."""
    asyncio.run(World(seed).run(60))


async def test_an_epoch_begins_once() -> None:
    """PR3: two nodes cannot both begin one, and a node that was too slow cannot begin an old one."""
    store = MemoryStore()
    writer = Writer(store, 1)
    await writer.take_over()
    writer.append(PARTITIONS[0], 3)
    await writer.archive(PARTITIONS[0], 2, tell=True)
    slow, quick = Archive(store, PREFIX), Archive(store, PREFIX)
    await slow.epochs.refresh()

    begun = await begin_epoch(quick, 3, node="quick", time=TIME)

    assert begun.ends == {"doc.a": ((1, 2),)}
    assert await begin_epoch(Archive(store, PREFIX), 3, node="quick", time=TIME) == begun, "it is the same again"
    with pytest.raises(EpochTaken):
        await slow.epochs.begin(EpochTable(epoch=2))
    with pytest.raises(EpochTaken):
        await slow.epochs.begin(EpochTable(epoch=3, ends={"doc.a": ((1, 1),)}))


async def test_a_reader_hears_of_a_new_epoch_when_it_meets_it() -> None:
    """PR2: what it knew of epochs is looked up again, and not before."""
    store = MemoryStore()
    archive = Archive(store, PREFIX)
    assert not await archive.knows(PARTITIONS[0], Position(2, 1)), "nobody has begun it"

    await begin_epoch(Archive(store, PREFIX), 2, node="other", time=TIME)

    assert await archive.knows(PARTITIONS[0], Position(1, 1)), "it has not heard"
    assert await archive.knows(PARTITIONS[0], Position(2, 1))
    assert not await archive.knows(PARTITIONS[0], Position(1, 1))
    assert await archive.knows(PARTITIONS[0], START)


async def test_who_is_slow_to_read_an_older_table_does_not_replace_a_newer_one() -> None:
    """PR3: two readers look at the same time, and another epoch begins between them."""

    class Slow(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.reached, self.go = asyncio.Event(), asyncio.Event()

        async def get(self, key: str) -> Object:
            if key.endswith(epoch_key(2)):
                self.reached.set()
                await self.go.wait()
            return await super().get(key)

    store = Slow()
    archive, writer = Archive(store, PREFIX), Archive(store, PREFIX)
    await begin_epoch(writer, 2, node="second", time=TIME)
    slow = asyncio.create_task(archive.epochs.refresh())
    await store.reached.wait()
    await begin_epoch(writer, 3, node="third", time=TIME)

    assert (await archive.epochs.refresh()).epoch == 3
    store.go.set()
    assert (await slow).epoch == 3
    assert (await archive.epochs.table()).epoch == 3


def test_a_table_says_which_record_is_of_which_epoch() -> None:
    table = EpochTable(epoch=4, ends={"doc.a": ((1, 10), (3, 12))})

    assert list(table.spans(PARTITIONS[0])) == [Span(1, 1, 10), Span(3, 11, 12), Span(4, 13, None)]
    assert list(table.spans(PARTITIONS[1])) == [Span(4, 1, None)]
    known = [Position(1, 10), Position(3, 11), Position(4, 13), Position(4, 99)]
    unknown = [Position(1, 11), Position(2, 11), Position(3, 13), Position(4, 12), Position(5, 13)]
    assert [table.knows(PARTITIONS[0], position) for position in known + unknown] == [True] * 4 + [False] * 5


@pytest.mark.parametrize("ends", [[(1, 5), (1, 7)], [(2, 5), (1, 7)], [(1, 5), (2, 5)], [(4, 5)], [(1, 0)]])
def test_a_table_out_of_order_is_refused(ends: list[tuple[int, int]]) -> None:
    with pytest.raises(ValidationError):
        EpochTable.model_validate({"epoch": 4, "ends": {"doc.a": ends}})


def test_a_position_follows_another_by_its_index_in_no_older_epoch() -> None:
    assert Position(1, 5).follows(Position(1, 4))
    assert Position(3, 5).follows(Position(1, 4))
    assert not Position(1, 5).follows(Position(2, 4))
    assert not Position(2, 6).follows(Position(1, 4))
    assert Position(1, 4).next(3) == Position(3, 5)
    assert Position(3, 4).next(1) == Position(3, 5)
