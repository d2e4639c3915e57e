"""When generations are made: after so much was archived, not too often, again after a failure, and not for nothing."""

from collections import Counter
from functools import partial
from pathlib import Path

from events.objects.memory import MemoryStore
from events.objects.port import Object
from schemas.generation import CurrentGeneration, current_key
from schemas.ids import PartitionId, Position
from tests.failing_store import Failing
from tests.generations import Written, following, written
from tests.notes import eventually
from workers.generations.progress import SHARE, Policy, Progresses

PARTITION = PartitionId("doc", "notes")
POLICY = Policy(records=10, size_bytes=1 << 30, every_s=0)


def test_a_projection_is_due_after_so_many_records_or_bytes() -> None:
    for policy in (Policy(10, 1 << 30, 0), Policy(10**6, 500, 0)):
        progresses = Progresses(policy)
        due = [progresses.is_due(progresses.archived(PARTITION, Position(1, n), 1, 50)) for n in range(1, 13)]
        assert due == [False] * 9 + [True] * 3
        progresses.made(PARTITION, Position(1, 11), 0, 0)
        assert not progresses.is_due(progresses.archived(PARTITION, Position(1, 13), 1, 50))


def test_records_that_are_told_of_twice_or_not_at_all_are_counted_once() -> None:
    """An archiver that tries again, or that died between two segments."""
    progresses = Progresses(POLICY)
    for index in (2, 2, 7):
        progress = progresses.archived(PARTITION, Position(1, index), 2, 1)
    assert progress.records == 7


def test_the_next_one_waits_for_its_time_and_longer_after_one_that_took_long() -> None:
    """PR7: a large projection takes a bounded share of the time."""
    progresses = Progresses(Policy(1, 1, 300))
    progress = progresses.archived(PARTITION, Position(1, 1), 1, 1)
    progresses.made(PARTITION, Position(1, 1), now_s=1000, took_s=1)
    assert progress.not_before == 1300
    progresses.made(PARTITION, Position(1, 1), now_s=2000, took_s=60)
    assert progress.not_before == 2000 + 60 * SHARE


def test_what_is_known_of_partitions_is_bounded() -> None:
    """PR7: those that were written least recently are forgotten, and found out again."""
    progresses = Progresses(POLICY)
    for n in range(5000):
        progresses.archived(PartitionId("doc", f"d{n}"), Position(1, 100), 1, 1)
    assert progresses.find(PartitionId("doc", "d0")) is None
    assert progresses.archived(PartitionId("doc", "d0"), Position(1, 101), 1, 1).counted is False


class Counting(MemoryStore):
    """A store that counts what is asked of it about generations."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    async def get(self, key: str) -> Object:
        self.calls[key] += "/gen/" in key
        return await super().get(key)


async def standing(notes: Written) -> Position | None:
    found = await notes.latest()
    return found.at if found else None


async def test_generations_follow_what_is_archived(tmp_path: Path) -> None:
    """Of every projection of a partition; too little is no reason for one."""
    async with written(tmp_path / "node") as notes:
        async with following(notes.archive, notes.domain, tmp_path / "scratch", POLICY) as generations:
            for n in range(1, 26):
                generations.archived(notes.partition, await notes.write(f"note {n}"), 1, 100)
                if n % 10 == 0:
                    await eventually(partial(all_stand, notes, Position(1, n)))
        assert await standing(notes) == Position(1, 20)


def pointers(notes: Written) -> list[str]:
    return [notes.archive.key(current_key(spec.name)) for spec in notes.specs]


def all_stand(notes: Written, position: Position) -> bool:
    assert isinstance(notes.store, MemoryStore)
    found = [notes.store.objects.get(key) for key in pointers(notes)]
    return all(one and CurrentGeneration.model_validate_json(one.data).at == position for one in found)


async def test_after_a_restart_the_store_is_asked_once_for_each_partition_that_is_written(tmp_path: Path) -> None:
    """Ten thousand documents that nobody writes cost nothing; one that is written costs a look at its pointers."""
    store = Counting()
    async with written(tmp_path / "node", store) as notes:
        await notes.write(*(f"note {n}" for n in range(20)))
        async with following(notes.archive, notes.domain, tmp_path / "scratch", POLICY) as generations:
            generations.archived(notes.partition, notes.position, 20, 1)
            await eventually(lambda: all_stand(notes, Position(1, 20)))
        for _ in range(3):
            store.calls.clear()
            async with following(notes.archive, notes.domain, tmp_path / "scratch", POLICY) as generations:
                for _ in range(2):
                    generations.archived(notes.partition, await notes.write("more"), 1, 1)
                    await eventually(lambda: len(+store.calls) == len(notes.specs))
            assert +store.calls == dict.fromkeys(pointers(notes), 1)
        assert await standing(notes) == Position(1, 20)


async def test_what_fails_is_tried_again_and_told_meanwhile(tmp_path: Path) -> None:
    store = Failing(10**9, done=False)
    async with written(tmp_path / "node", store) as notes:
        await notes.write(*(f"note {n}" for n in range(20)))
        async with following(notes.archive, notes.domain, tmp_path / "scratch", POLICY) as generations:
            store.left = 1
            generations.archived(notes.partition, notes.position, 20, 1)
            await eventually(lambda: "as asked" in generations.troubles.get(str(notes.partition), ""))
            await eventually(lambda: not generations.troubles)
        assert await standing(notes) == Position(1, 20)


async def test_old_generations_go_as_new_ones_are_made(tmp_path: Path) -> None:
    async with written(tmp_path / "node") as notes:
        async with following(notes.archive, notes.domain, tmp_path / "scratch", POLICY, keep=2) as generations:
            for _ in range(4):
                await notes.write("a note")
                await generations.make_now(notes.partition, notes.spec)
        manifests = [key for key in notes.store.objects if key.endswith("manifest.json")]
        assert sorted(key.split("/")[-2] for key in manifests) == ["1.3", "1.4"]
