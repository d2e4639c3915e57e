"""Marks say which partitions are busy before anything of them is stored, so that few have to be looked at later."""

import random
from collections.abc import Coroutine
from typing import Any

import pytest

from events.archive import Archive
from events.objects.errors import StoreUnavailable
from events.objects.memory import MemoryStore
from events.streams import STREAMS, StreamState
from schemas.archive import Mark, mark_key
from schemas.ids import PartitionId, Position
from tests.archives import PREFIX
from tests.faults.killer import fresh_seed
from workers.archive.marking import BUSY_MAX, BUSY_S, Marker
from workers.standby.changes import changes, marks
from workers.standby.compared import Compared

STREAM = "FORGE_DOCS"
HERE = dict.fromkeys([stream.name for stream in STREAMS], StreamState("the standby's own", 9, 9, 9, {}))


class Failing(MemoryStore):
    """A store that may refuse changes; `lost` ones are done all the same."""

    refuses = lost = False
    changed = 0

    async def create(self, key: str, data: bytes) -> str:
        """Store a new object."""
        return await self._change(super().create(key, data))

    async def swap(self, key: str, data: bytes, tag: str) -> str:
        """Replace an object."""
        return await self._change(super().swap(key, data, tag))

    async def _change(self, done: Coroutine[Any, Any, str]) -> str:
        self.changed += 1
        if self.refuses:
            done.close()
            raise StoreUnavailable("no")
        tag = await done
        if self.lost:
            raise StoreUnavailable("nobody heard the answer")
        return tag


def document(number: int) -> PartitionId:
    return PartitionId("doc", f"d{number}")


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def stored(store: MemoryStore) -> Mark:
    return Mark.model_validate_json((await store.get(f"{PREFIX}/{mark_key(STREAM)}")).data)


async def test_a_partition_is_said_to_be_busy_before_it_changes_and_for_a_while_after() -> None:
    """PR7: what changes again and again costs no request each time."""
    store, clock = Failing(), Clock()
    marker = Marker(Archive(store, PREFIX), STREAM, clock=clock)
    await marker.begin("created")

    for round_ in range(20):
        await marker.announce([document(1), document(2)], 0, round_)
        assert (await stored(store)).busy == ("doc.d1", "doc.d2")
        marker.archived(document(1))
        marker.told(document(1))
        marker.archived(document(2))
        marker.told(document(2))
        clock.now += BUSY_S / 40
    assert store.changed == 1
    clock.now += 2 * BUSY_S
    await marker.announce([document(3)], 0, 30)

    mark = await stored(store)
    assert mark.busy == ("doc.d3",)
    assert (mark.told, mark.changed[-1], mark.seen) == (40, "doc.d2", 30)


async def test_that_nothing_is_busy_any_more_is_said_once() -> None:
    """PR7: what is idle costs nothing, also those who take over."""
    store, clock = Failing(), Clock()
    marker = Marker(Archive(store, PREFIX), STREAM, clock=clock)
    await marker.announce([document(1), document(2)], 0, 7)
    marker.archived(document(1))
    marker.told(document(1))
    await marker.save(7)
    clock.now += 2 * BUSY_S
    assert marker.due_s(7) is None, "nobody knows what became of the other"
    marker.told(document(2))
    clock.now += 2 * BUSY_S
    assert marker.due_s(7) is None, "nor does its position say that"
    marker.archived(document(2))
    clock.now += 2 * BUSY_S
    await marker.save(7)
    assert marker.due_s(7) is None, "its position does not say it yet"
    marker.told(document(2))
    await marker.save(7)
    clock.now += 2 * BUSY_S

    assert marker.due_s(7) == 0
    await marker.save(7)

    assert (await stored(store)).busy == ()
    assert marker.due_s(7) is None


async def test_nothing_is_stored_that_could_not_be_announced() -> None:
    """PR3: what was asked of a store that did not answer is asked again."""
    store, clock = Failing(), Clock()
    marker = Marker(Archive(store, PREFIX), STREAM, clock=clock)
    for refuses, lost in ((True, False), (False, True)):
        store.refuses, store.lost = refuses, lost
        with pytest.raises(StoreUnavailable):
            await marker.announce([document(1)], 0, 0)
    store.lost = False
    await marker.announce([document(1)], 0, 0)
    marker.archived(document(1))
    marker.told(document(1))
    clock.now += 2 * BUSY_S
    store.lost = True
    with pytest.raises(StoreUnavailable):
        await marker.announce([document(2)], 0, 0)
    assert (await stored(store)).busy == ("doc.d2",)
    store.lost = False

    await marker.announce([document(1)], 0, 0)

    assert (await stored(store)).busy == ("doc.d1", "doc.d2")


async def test_too_many_busy_partitions_are_not_named() -> None:
    """PR7: a mark stays small."""
    store, clock = Failing(), Clock()
    marker = Marker(Archive(store, PREFIX), STREAM, clock=clock)
    for number in range(BUSY_MAX + 5):
        await marker.announce([document(number)], 0, 0)
        marker.archived(document(number))
        marker.told(document(number))
    assert store.changed == BUSY_MAX + 1
    assert (await stored(store)).busy is None
    clock.now += 2 * BUSY_S
    await marker.save(1)

    await marker.announce([document(7)], 1, 0)

    assert (await stored(store)).busy == ("doc.d7",)


async def test_a_standby_is_never_sure_of_a_partition_that_has_changed() -> None:
    """PR3, PR4: random histories of a writer that dies at any step and starts again, and of who follows it."""
    rng = random.Random(fresh_seed())
    store, clock, sure_of = Failing(), Clock(), 0
    archive = Archive(store, PREFIX)
    held: dict[PartitionId, int] = {}  # what the store has of each partition
    marker = Marker(archive, STREAM, clock=clock)
    compared = Compared(await marks(archive), 1, {}, {STREAM: 9}, {STREAM: HERE[STREAM].created})
    for _ in range(4000):
        clock.now += rng.choice([0.01, 0.3, 2.0])
        match rng.random():
            case dice if dice < 0.5:
                if not await _archived(rng, marker, store, held):
                    marker = Marker(archive, STREAM, clock=clock)  # it died
                    await marker.begin("the writer's")
            case dice if dice < 0.8:
                now = await marks(archive)
                for _, changed in changes(compared.marks, now):
                    compared.ends |= {one: Position(1, held[one]) for one in held.keys() & (changed or held.keys())}
                compared.marks = now
            case _:
                sure = compared.sure(await marks(archive), HERE)
                sure_of += len(sure)
                assert sure == {one: Position(1, held[one]) for one in sure}
    assert sure_of > 1000, "it is sure of most"
    compared.appended(document(1), 8)
    assert compared.sequences == {STREAM: 9}
    compared.appended(document(1), 10)
    assert not compared.sure(await marks(archive), HERE), "somebody else has written here"


async def test_another_log_of_the_same_length_was_never_compared() -> None:
    """PR3: a data directory may get another log, and keep what was known of the one before."""
    archive = Archive(MemoryStore(), PREFIX)
    marker = Marker(archive, STREAM)
    await marker.begin("the writer's")
    marker.archived(document(1))
    await marker.save(1)
    ends = {document(1): Position(1, 5)}
    compared = Compared(await marks(archive), 1, ends, {STREAM: 9}, {STREAM: HERE[STREAM].created})
    assert compared.sure(await marks(archive), HERE) == ends
    other = {STREAM: HERE[STREAM]._replace(created="another log's")}

    assert not compared.sure(await marks(archive), HERE | other)


async def _archived(rng: random.Random, marker: Marker, store: Failing, held: dict[PartitionId, int]) -> bool:
    """Archive some partitions as the archiver does; False if it died at some step."""
    chosen = [document(n) for n in rng.sample(range(30), rng.choice([1, 1, 1, 3]))]
    dies_at = rng.choice([rng.randrange(12), 1000, 1000, 1000])
    store.refuses, store.lost = rng.random() < 0.1, rng.random() < 0.1
    try:
        if dies_at == 0:
            return False
        await marker.announce(chosen, 0, 0)
        for step, partition in enumerate(chosen, start=1):
            if dies_at == step:
                return False
            held[partition] = held.get(partition, 0) + 1
            if dies_at == step + 3:
                return False
            if rng.random() < 0.9:  # else nobody knows whether it is stored, and it is tried again
                marker.archived(partition)
                marker.told(partition)
        if dies_at == 7:
            return False
        await marker.save(0)
    except StoreUnavailable:
        pass  # it tries again
    finally:
        store.refuses = store.lost = False
    return dies_at != 8
