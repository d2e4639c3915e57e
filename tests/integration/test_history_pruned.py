"""Histories whose beginning is not kept any more: what goes, and what every reader does without it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from events.archive import Archive
from events.archived_place import archived_end
from events.boundary import boundary
from events.cursor import Cursor
from events.epoch_ends import begin_epoch
from events.errors import HistoryBegins
from events.objects.errors import StoreUnavailable
from events.objects.memory import MemoryStore
from events.objects.port import Object
from events.purge import purge
from events.read import check_end, read
from events.seek import BelowFloor, extent, seek, seek_begin, seek_end, seek_index, seek_time
from forge.restore.drill import Drill
from forge.restore.outcome import Done
from forge.restore.past import NotInArchive, find, make
from projectors.generations.reading import positions
from projectors.rebuild import rebuild, verify
from projectors.threads import Threads
from schemas.ids import START, PartitionId, Position
from schemas.instants import now
from tests.conftest import StartNats
from tests.generations import making
from tests.notes import new_partition, notes_domain
from tests.pruning import pruned
from tests.restoring import Machine, StartMachine, machine, machines
from workers.log_retention.looking import check_archived
from workers.log_retention.rule import Follower
from workers.standby.compared import Compared
from workers.standby.follower import ArchiveFollower


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest_asyncio.fixture
async def start(tmp_path: Path, start_nats: StartNats, store: MemoryStore) -> AsyncIterator[StartMachine]:
    """Start machines by name; all share `store`."""
    async with machines(tmp_path, start_nats, store) as started:
        yield started


async def copied(at: Machine, partition: PartitionId) -> None:
    """Make generations of both projections."""
    async with making(at.archive, at.folder / "making") as maker:
        for spec in at.domain.projections(partition.key):
            assert (await maker.make(partition, spec)).generation is not None


async def lived(at: Machine, partition: PartitionId, *, epoch: int = 1, after: int = 0) -> str:
    """Write twelve records in segments of three, with generations after six and nine; return the moment after nine."""
    since = ""
    for part in range(4):
        end = await at.write(partition, *(f"note {after + 3 * part + n + 1}" for n in range(3)), epoch=epoch)
        await at.archived(partition, end)
        if part in (1, 2):
            await copied(at, partition)
            since = now()
    return since


async def floor_of(archive: Archive, partition: PartitionId) -> int:
    floor = await archive.floor(partition)
    assert floor is not None
    return floor.index


async def test_what_is_older_than_the_window_goes_and_the_rest_is_read(
    start: StartMachine, store: MemoryStore, tmp_path: Path
) -> None:
    """G26, K3.5, PR4: the segment of the base stays; a lost machine comes back, and rebuilding gives the same."""
    first, partition = await start("first"), new_partition()
    since = await lived(first, partition)

    assert await pruned(first.archive, first.domain, partition, tmp_path / "scratch", since) == 2

    assert await floor_of(first.archive, partition) == 7
    for spec in first.domain.projections(partition.key):
        assert await positions(first.archive, spec.name) == [Position(1, 9)]
    second = await start("second")
    outcome = await second.restore(partition)
    assert (outcome.done, outcome.position, outcome.problem) == (Done.RESTORED, "1.12", None)
    assert second.digests == first.digests
    assert (await second.restore(partition)).done is Done.NOTHING
    with Threads(2) as threads:
        specs = second.domain.projections(partition.key)
        for spec in specs:
            verdict = await verify(second.log.reader, threads, second.domain, partition, spec)
            assert (verdict.equal, verdict.begun, verdict.position) == (True, Position(1, 9), Position(1, 12))
        begun = await rebuild(second.log.reader, threads, second.domain, partition, specs)
        assert [*begun] == [Position(1, 9)] * 2
        drill = Drill(first.archive, threads, tmp_path / "drills", "test-node")
        for machine_of in (first, await start("empty")):
            spec = machine_of.domain.projections(partition.key)[0]
            result = await drill.run(machine_of.domain, partition, spec)
            assert (result.green, result.position) == (True, "1.12"), result.reason
    assert second.digests == first.digests
    assert await second.write(partition, "more") == Position(1, 13)
    assert await pruned(first.archive, first.domain, partition, tmp_path / "scratch", since) == 0


async def test_a_database_that_is_missing_begins_with_a_generation(start: StartMachine, tmp_path: Path) -> None:
    """PR4: a node that starts makes it again, whichever of two it is."""
    first, partition = await start("first"), new_partition()
    await pruned(first.archive, first.domain, partition, tmp_path / "scratch", await lived(first, partition))
    second = await start("second")
    await second.restore(partition)
    for spec in second.domain.projections(partition.key):
        spec.path.unlink()
        assert await second.write(partition) == Position(1, 12)
        assert second.digests == first.digests


async def test_places_before_the_beginning_are_refused_with_its_name(start: StartMachine, tmp_path: Path) -> None:
    """K0.4: and the one just before it, from which all that is kept can be read, is found."""
    first, partition = await start("first"), new_partition()
    began = now()
    since = await lived(first, partition)
    records = await first.records(partition)
    await pruned(first.archive, first.domain, partition, tmp_path / "scratch", since)
    end = await seek_end(first.log.reader, partition)
    await purge(first.log.admin, partition, below=end.sequence)
    reader = first.log.reader

    assert await extent(reader, partition) == (Position(1, 7), Position(1, 12))
    for position in (START, Position(1, 1), Position(1, 5)):
        with pytest.raises(BelowFloor, match=r"begins with 1\.7") as raised:
            await seek(reader, partition, position)
        assert raised.value.floor == Position(1, 7)
    with pytest.raises(BelowFloor, match=r"begins with 1\.7"):
        await seek_index(reader, partition, 5)
    with pytest.raises(BelowFloor, match=r"begins with 1\.7"):
        await seek_time(reader, partition, began)
    before = await seek(reader, partition, Position(1, 6))
    assert (before.hash, before) == (records[5].hash, await seek_begin(reader, partition))
    assert [entry.record async for entry in read(reader, partition, before)] == records[6:]
    assert (await seek_time(reader, partition, since)).position == Position(1, 9)
    for index in range(6, 13):
        assert (await seek_index(reader, partition, index)).hash == records[index - 1].hash
    with pytest.raises(HistoryBegins, match=r"begins with record 1\.7") as begins:
        await first.records(partition)
    assert begins.value.floor == Position(1, 7)
    known = Cursor(Position(1, 3), records[2].hash, 0)
    with pytest.raises(HistoryBegins):
        await check_end(reader, partition, known)
    assert await check_end(reader, partition, Cursor(Position(1, 8), records[7].hash, 0)) == Position(1, 12)


async def test_a_moment_of_the_window_is_restored_and_one_before_it_is_refused(
    start: StartMachine, tmp_path: Path
) -> None:
    """PR4: also where records are kept, but no generation before them."""
    first, partition = await start("first"), new_partition()
    await pruned(first.archive, first.domain, partition, tmp_path / "scratch", await lived(first, partition))
    spec = first.domain.projections(partition.key)[0]
    with Threads(1) as threads:
        at = await find(first.archive, partition, Position(1, 10))
        made = await make(first.archive, threads, first.domain, partition, spec, at, tmp_path / "ten.db")
        assert (made.position, made.generation) == ("1.10", "1.9")
        at = await find(first.archive, partition, Position(1, 8))
        with pytest.raises(NotInArchive, match=r"from 1\.9 on"):
            await make(first.archive, threads, first.domain, partition, spec, at, tmp_path / "eight.db")
        assert not (tmp_path / "eight.db").exists()
    with pytest.raises(NotInArchive, match=r"begins with 1\.7"):
        await find(first.archive, partition, Position(1, 2))


async def test_who_fell_behind_the_beginning_takes_a_new_copy(start: StartMachine, tmp_path: Path) -> None:
    """G3, K3.5: what cannot be compared any more is kept aside, records and files."""
    first, second, partition = await start("first"), await start("second"), new_partition()
    end = await first.write(partition, "note 1")
    await first.archived(partition, end)
    await second.restore(partition)
    since = await lived(first, partition, after=1)
    await pruned(first.archive, first.domain, partition, tmp_path / "scratch", since)

    outcome = await second.restore(partition)

    assert (outcome.done, outcome.position, outcome.problem) == (Done.SET_ASIDE, "1.13", None)
    assert len(outcome.aside) == 3
    assert second.digests == first.digests
    assert await second.write(partition, "more") == Position(1, 14)


async def test_a_standby_that_fell_behind_the_beginning_is_compared_anew(start: StartMachine, tmp_path: Path) -> None:
    """G30, PR4: following ends by itself, and what a comparison does then is what a restore does."""
    first, second, partition = await start("first"), await start("second"), new_partition()
    await first.archived(partition, await first.write(partition, "note 1"))
    await second.restore(partition)
    since = await lived(first, partition, after=1)
    await pruned(first.archive, first.domain, partition, tmp_path / "scratch", since)
    compared = Compared(epoch=(await second.archive.epochs.refresh()).epoch, ends={partition: Position(1, 1)})
    follower = ArchiveFollower(
        second.archive, second.log, compared=compared, holder_epoch=lambda: 0, heard=lambda _: None, poll_s=0.05
    )
    async with asyncio.timeout(60):
        await follower.run()
    assert not follower.stopped
    assert partition not in compared.ends
    assert (await second.restore(partition)).problem is None
    assert second.digests == first.digests


async def test_two_epochs_are_pruned_together(start: StartMachine, store: MemoryStore, tmp_path: Path) -> None:
    """PR3, PR4: an epoch of which nothing is left is still known, and the next one begins where it must."""
    first, partition = await start("first"), new_partition()
    await lived(first, partition)
    await begin_epoch(first.archive, 2, node="second", time=now())
    second = await start("second")
    await second.restore(partition)
    since = await lived(second, partition, epoch=2, after=12)

    assert await pruned(second.archive, second.domain, partition, tmp_path / "scratch", since) == 6

    assert await second.archive.floor(partition) == Position(2, 19)
    third = await start("third")
    outcome = await third.restore(partition)
    assert (outcome.position, outcome.problem) == ("2.24", None)
    assert third.digests == second.digests
    assert await third.archive.knows(partition, Position(1, 12))
    assert not await third.archive.knows(partition, Position(1, 13))
    with pytest.raises(BelowFloor):
        await seek(third.log.reader, partition, Position(1, 12))
    table = await begin_epoch(third.archive, 3, node="third", time=now())
    assert table.ends[partition.token] == ((1, 12), (2, 24))
    await third.archived(partition, await third.write(partition, "of epoch 3", epoch=3))
    assert (await archived_end(third.archive, partition)).cursor.position == Position(3, 25)
    late = await start("late")
    assert (await late.restore(partition)).position == "3.25"
    assert late.digests == third.digests


async def test_the_base_begins_an_epoch(start: StartMachine, tmp_path: Path) -> None:
    """PR3: the record before the first that is kept is of the epoch before."""
    first, partition = await start("first"), new_partition()
    await first.archived(partition, await first.write(partition, *"abc"))
    await begin_epoch(first.archive, 2, node="second", time=now())
    second = await start("second")
    await second.restore(partition)
    await second.archived(partition, await second.write(partition, *"def", epoch=2))
    await copied(second, partition)
    assert await pruned(second.archive, second.domain, partition, tmp_path / "scratch", now()) == 1
    third = await start("third")
    assert (await third.restore(partition)).position == "2.6"
    assert third.digests == second.digests
    before = await seek_index(third.log.reader, partition, 3)
    assert before.position == Position(1, 3)
    assert before == await seek_begin(third.log.reader, partition)
    assert await seek(third.log.reader, partition, Position(1, 3)) == before
    assert before.hash == (await seek(second.log.reader, partition, Position(1, 3))).hash
    third_of_all = await seek(second.log.reader, partition, Position(1, 3))
    await purge(second.log.admin, partition, below=third_of_all.sequence + 1)  # the log begins with the epoch, too
    with pytest.raises(HistoryBegins):
        await second.records(partition)
    with Threads(2) as threads:
        for spec in second.domain.projections(partition.key):
            assert (await verify(second.log.reader, threads, second.domain, partition, spec)).equal


async def test_a_replica_that_is_heard_keeps_what_it_needs_and_a_stalled_one_nothing(
    start: StartMachine, tmp_path: Path
) -> None:
    """K4.5: whoever follows goes on from where it is."""
    first, partition, scratch = await start("first"), new_partition(), tmp_path / "scratch"
    since = await lived(first, partition)
    live, stalled = Follower("live", 4), Follower("stalled", 1, stalled=True)
    assert await pruned(first.archive, first.domain, partition, scratch, since, followers=[live, stalled]) == 1
    assert await floor_of(first.archive, partition) == 4
    assert await pruned(first.archive, first.domain, partition, scratch, since, followers=[stalled]) == 1
    assert await floor_of(first.archive, partition) == 7


class Damaging(MemoryStore):
    """A store of which objects can be damaged."""

    def damage(self, part: str) -> None:
        """Damage all whose keys have `part` in them."""
        for key in [key for key in self.objects if part in key]:
            found = self.objects[key]
            self.objects[key] = Object(bytes(len(found.data)), found.tag)


@pytest.mark.parametrize("what", ["chunk", "records", "no generation", "one projection", "place"])
async def test_nothing_goes_that_cannot_be_proved(start_nats: StartNats, tmp_path: Path, what: str) -> None:
    """G26, PR4: a generation that is damaged, or is not what the records say; and it is said."""
    store, partition = Damaging(), new_partition()
    async with machine(tmp_path / "first", await start_nats(), store) as first:
        if what in ("no generation", "one projection"):
            await first.archived(partition, await first.write(partition, *"abcdef"))
            if what == "one projection":
                async with making(first.archive, tmp_path / "making") as maker:
                    await maker.make(partition, first.domain.projections(partition.key)[0])
            since = now()
        else:
            since = await lived(first, partition)
        if what == "chunk":
            store.damage("/pages/")
        if what == "records":
            store.damage(".seg")
        if what == "place":
            store.damage("position.json")
        before = {key for key in store.objects if key.endswith((".seg", "manifest.json"))}
        with capture_logs() as said:
            assert await pruned(first.archive, first.domain, partition, tmp_path / "scratch", since) == 0
        assert {key for key in store.objects if key.endswith((".seg", "manifest.json"))} == before
        assert [one["event"] for one in said if one["log_level"] == "error"] == (
            ["history not pruned"] if what in ("chunk", "records", "place") else []
        )


class Breaking(MemoryStore):
    """A store that removes so many objects, and then answers no more."""

    left = -1

    async def delete(self, key: str) -> None:
        """Remove an object, or not."""
        if self.left == 0:
            raise StoreUnavailable("as asked")
        self.left -= 1
        await super().delete(key)


async def test_a_store_that_fails_at_any_removal_leaves_a_history_that_can_be_read(
    start_nats: StartNats, tmp_path: Path
) -> None:
    """G26: whatever was removed until then; and the next look goes on."""
    partition, store = new_partition(), Breaking()
    async with machine(tmp_path / "first", await start_nats(), store) as first:
        since = await lived(first, partition)
        removed = 0
        async with machine(tmp_path / "second", await start_nats(), store) as second:
            for broken in range(20):
                store.left = 0 if not broken else 1
                try:
                    removed += await pruned(first.archive, first.domain, partition, tmp_path / "scratch", since)
                except StoreUnavailable:
                    removed += 1
                    assert (await second.restore(partition)).problem is None
                    assert second.digests == first.digests
                    for spec in second.domain.projections(partition.key):
                        spec.path.unlink()
                    continue
                break
        assert removed > 3
        assert await floor_of(first.archive, partition) == 7


async def test_the_log_lets_go_of_what_the_archive_keeps_no_more(start: StartMachine, tmp_path: Path) -> None:
    """K4.2: the first record of the archive is compared instead of one that is gone."""
    first, partition = await start("first"), new_partition()
    await pruned(first.archive, first.domain, partition, tmp_path / "scratch", await lived(first, partition))
    end = await boundary(first.log.reader, partition, 3)
    assert end is not None
    await check_archived(first.log.reader, first.archive, partition, end)
    await purge(first.log.admin, partition, below=end.sequence)
    assert await extent(first.log.reader, partition) == (Position(1, 4), Position(1, 12))
    begin = await seek_begin(first.log.reader, partition)
    assert begin.position == Position(1, 3)
    assert [entry.cursor.position.index async for entry in read(first.log.reader, partition, begin)] == [*range(4, 13)]


async def test_a_version_with_other_tables_says_that_it_has_nothing_to_begin_with(
    start: StartMachine, tmp_path: Path
) -> None:
    """PR4: it leaves the databases as they are, and nothing more goes that only the version before can read."""
    first, partition, scratch = await start("first"), new_partition(), tmp_path / "scratch"
    since = await lived(first, partition)
    digests, newer = first.digests, notes_domain(first.folder, version="2")
    assert await pruned(first.archive, newer, partition, scratch, since) == 0
    assert await pruned(first.archive, first.domain, partition, scratch, since) == 2
    end = await seek_end(first.log.reader, partition)
    await purge(first.log.admin, partition, below=end.sequence)
    with Threads(2) as threads, pytest.raises(HistoryBegins, match="this version of Forge"):
        await rebuild(first.log.reader, threads, newer, partition, newer.projections(partition.key))
    assert first.digests == digests
