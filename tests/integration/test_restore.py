"""Partitions compared with their archive and restored from it: nothing newer is ever replaced by older."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from ulid import ULID

from events.append import last_message
from events.cursor import Cursor
from events.errors import LogDamaged, NotTheWriter
from events.objects.memory import MemoryStore
from events.read import message_position
from events.seek import extent, seek
from events.segment import open_segment
from events.write_guard import WriteGuard
from forge.restore.outcome import Done
from forge.restore.partition import Restorer
from forge.restore.standing import examine
from projectors.projection import connect
from projectors.threads import Threads
from schemas.archive import EpochTable
from schemas.ids import PartitionId, Position
from tests.conftest import StartNats
from tests.notes import append_note, new_partition
from tests.restoring import Machine, StartMachine, machines


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest_asyncio.fixture
async def start(tmp_path: Path, start_nats: StartNats, store: MemoryStore) -> AsyncIterator[StartMachine]:
    """Start machines by name; all share `store`, and a name that came before is that machine with an empty log."""
    async with machines(tmp_path, start_nats, store) as started:
        yield started


async def test_a_lost_machine_is_restored_and_goes_on(start: StartMachine) -> None:
    """PR4: the same digests at the same position, the newest record in the log, and writing goes on after it."""
    first, partition = await start("first"), new_partition()
    end = await first.write(partition, *"abcde")
    await first.archived(partition, end)
    second = await start("second")

    outcome = await second.restore(partition)

    assert (outcome.done, outcome.position, outcome.problem) == (Done.RESTORED, "1.5", None)
    assert outcome.time
    assert second.digests == first.digests
    assert await _newest(second, partition) == end
    assert (await second.restore(partition)).done == Done.NOTHING
    assert await second.write(partition, "f") == Position(1, 6)
    assert second.notes == [*"abcdef"]
    await second.archived(partition, Position(1, 6))
    records = await second.records(partition)
    assert records[:5] == await first.records(partition)
    assert len(records) == 6


async def test_what_is_behind_catches_up(start: StartMachine) -> None:
    """PR4, G3: a machine that comes back finds what another wrote meanwhile."""
    first, second, partition = await start("first"), await start("second"), new_partition()
    await first.archived(partition, await first.write(partition, *"abc"))
    await second.restore(partition)
    await first.archived(partition, await first.write(partition, *"de"))

    outcome = await second.restore(partition)

    assert (outcome.done, outcome.position) == (Done.CAUGHT_UP, "1.5")
    assert second.digests == first.digests
    assert await second.write(partition, "f") == Position(1, 6)
    assert [record.position.index for record in await second.records(partition)] == [1, 2, 3, 4, 5, 6]


async def test_what_is_far_behind_keeps_only_the_newest_record(
    start: StartMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PR4: the log has no gap, and what is not in it is read in the archive: by place and by order."""
    monkeypatch.setattr("forge.restore.partition.APPENDED_MAX", 2)
    first, second, partition = await start("first"), await start("second"), new_partition()
    await first.archived(partition, await first.write(partition, *"abc"))
    await second.restore(partition)
    await first.archived(partition, await first.write(partition, *"defgh"))

    assert (await second.restore(partition)).done == Done.CAUGHT_UP

    assert (await extent(second.log.reader, partition)).floor == Position(1, 1)
    for index in range(1, 9):
        position = Position(1, index)
        here, there = (
            await seek(second.log.reader, partition, position),
            await seek(first.log.reader, partition, position),
        )
        assert (here.position, here.hash) == (there.position, there.hash)
    assert await second.records(partition) == await first.records(partition)
    assert await second.write(partition, "i") == Position(1, 9)
    assert second.notes == [*"abcdefghi"]


async def test_what_is_ahead_stays(start: StartMachine, store: MemoryStore) -> None:
    """G3: nothing newer is replaced by older."""
    first, partition = await start("first"), new_partition()
    await first.archived(partition, await first.write(partition, *"abc"))
    await first.write(partition, *"de")
    before, objects = first.digests, dict(store.objects)

    outcome = await first.restore(partition)

    assert (outcome.done, outcome.position) == (Done.NOTHING, "1.5")
    assert first.digests == before
    assert store.objects == objects


async def test_a_projection_that_was_lost_alone_is_made_again(start: StartMachine) -> None:
    """Hydration when missing or damaged: the log stays, also what of it is not archived yet."""
    first, partition = await start("first"), new_partition()
    await first.archived(partition, await first.write(partition, *"abc"))
    await first.write(partition, *"de")
    digests = first.digests
    (first.folder / "lengths.db").unlink()
    (first.folder / "notes.db").write_bytes(b"no database" * 1000)

    outcome = await first.restore(partition)

    assert outcome.done == Done.SET_ASIDE
    (kept,) = outcome.aside
    assert await asyncio.to_thread(Path(kept).read_bytes) == b"no database" * 1000
    assert await first.write(partition) == Position(1, 5)
    assert first.digests == digests


async def test_another_history_is_kept_aside(start: StartMachine) -> None:
    """PR3, G3: two wrote the same position apart from each other; the archived one counts, the other is kept."""
    first, second, partition = await start("first"), await start("second"), new_partition()
    await first.archived(partition, await first.write(partition, *"abc"))
    await second.restore(partition)
    await second.write(partition, *"xyz")
    lost = (await second.records(partition))[3:]
    await first.archived(partition, await first.write(partition, *"d"))

    outcome = await second.restore(partition)

    assert (outcome.done, outcome.position) == (Done.SET_ASIDE, "1.4")
    assert second.digests == first.digests
    assert await _newest(second, partition) == Position(1, 4)
    tail, *files = sorted(map(Path, outcome.aside), key=lambda path: path.suffix != ".seg")
    assert [entry.record for entry in open_segment(tail.read_bytes(), partition).entries] == lost
    assert sorted(path.name.rpartition("-")[0] for path in files) == ["lengths.db.aside-1.6", "notes.db.aside-1.6"]
    db = connect(next(path for path in files if path.name.startswith("notes")), readonly=True)
    assert [row[0] for row in db.execute("SELECT text FROM note")] == [*"abcxyz"]
    db.close()
    assert await second.write(partition, "e") == Position(1, 5)
    assert second.notes == [*"abcde"]


async def test_a_writer_that_was_taken_over_from_goes_on_with_the_other_history(start: StartMachine) -> None:
    """PR3, G3: records after the end of its epoch are kept aside, whether or not another writer has any."""
    first, second = await start("first"), await start("second")
    partition, other = new_partition(), _without_files()
    await first.archived(partition, await first.write(partition, *"abc"))
    await second.restore(partition)
    table = EpochTable(epoch=2, ends={partition.token: ((1, 3),)})
    await second.archive.epochs.begin(table)
    await second.archived(partition, await second.write(partition, "d", epoch=2))
    await first.write(partition, *"xyz")
    cursor = Cursor.start(other)
    for _ in range(2):
        cursor = await append_note(first.log, other, cursor)
    await first.archive.epochs.refresh()

    outcome = await first.restore(partition)

    assert (outcome.done, outcome.position) == (Done.SET_ASIDE, "2.4")
    assert first.digests == second.digests
    assert first.notes == [*"abcd"]
    assert len(outcome.aside) == 3
    assert await last_message(first.log.reader, other) is None
    assert sorted(path.name.rpartition("-")[0] for path in (first.folder / "aside").iterdir()) == [
        f"{partition.token}-1.4-1.6",
        f"{other.token}-1.1-1.2",
    ]
    assert await first.write(partition, "e", epoch=3) == Position(3, 5)


async def test_a_record_that_was_here_a_moment_ago_is_put_back(start: StartMachine) -> None:
    """PR1, PR4: the server would take it for a repetition, and answer that it has it."""
    first, partition = await start("first"), new_partition()
    await first.archived(partition, await first.write(partition, *"abc"))
    await first.write(partition, *"xyz")
    await first.archive.epochs.begin(EpochTable(epoch=2, ends={partition.token: ((1, 3),)}))

    outcome = await first.restore(partition)

    assert (outcome.done, outcome.position) == (Done.SET_ASIDE, "1.3")
    assert await _newest(first, partition) == Position(1, 3)
    assert await first.write(partition, "d", epoch=2) == Position(2, 4)
    assert first.notes == [*"abcd"]


async def test_a_file_that_holds_more_than_log_and_archive_is_not_touched_unasked(start: StartMachine) -> None:
    """G3: the log was lost with its newest records; only an explicit restore goes on without them."""
    first, partition = await start("first"), new_partition()
    await first.archived(partition, await first.write(partition, *"abc"))
    await first.write(partition, *"de")
    again = await start("first")

    refused = await again.restore(partition)

    assert refused.done == Done.REFUSED
    assert "stands at 1.5" in (refused.problem or "")
    assert again.notes == [*"abcde"]
    outcome = await again.restore(partition, alone_aside=True)
    assert (outcome.done, outcome.position) == (Done.SET_ASIDE, "1.3")
    assert again.notes == [*"abc"]
    assert len(outcome.aside) == 2


async def test_a_file_alone_of_a_partition_that_was_never_archived_is_put_aside_if_asked(start: StartMachine) -> None:
    """G3: else the partition stays stopped, and every message about it names the restore that does nothing."""
    first, partition = await start("first"), new_partition()
    await first.write(partition, *"abc")
    again = await start("first")
    assert (await again.restore(partition)).done == Done.REFUSED
    assert again.notes == [*"abc"]

    outcome = await again.restore(partition, alone_aside=True)

    assert (outcome.done, outcome.position) == (Done.SET_ASIDE, "1.0")
    kept = next(path for path in outcome.aside if "notes.db.aside-1.3" in path)
    with closing(connect(Path(kept), readonly=True)) as db:
        assert [row[0] for row in db.execute("SELECT text FROM note")] == [*"abc"]
    assert await again.write(partition, "d") == Position(1, 1)
    assert again.notes == ["d"]


async def test_who_may_not_write_any_more_removes_nothing(start: StartMachine) -> None:
    """PR1, PR3: the log may be shared, and hold what another writer has answered since it was looked at."""
    first, second, partition = await start("first"), await start("second"), new_partition()
    await first.archived(partition, await first.write(partition, *"abc"))
    await second.restore(partition)
    await second.write(partition, *"xyz")
    await first.archived(partition, await first.write(partition, *"d"))
    guard = WriteGuard()
    with Threads(1) as threads:
        state = await examine(second.archive, second.log.reader, threads, second.domain, partition)
        restorer = Restorer(second.archive, second.log, threads, second.folder, guard=guard)

        with pytest.raises(NotTheWriter):
            await restorer.carry_out(state)

    assert await _newest(second, partition) == Position(1, 6)


async def test_what_was_appended_since_a_log_was_looked_at_stays(start: StartMachine) -> None:
    """PR1: who restores takes away what he has seen, and then finds that somebody else writes."""
    first, second, partition = await start("first"), await start("second"), new_partition()
    await first.archived(partition, await first.write(partition, *"abc"))
    await second.restore(partition)
    await second.write(partition, *"xyz")
    await first.archived(partition, await first.write(partition, *"d"))
    with Threads(1) as threads:
        state = await examine(second.archive, second.log.reader, threads, second.domain, partition)
        await second.write(partition, "late")
        restorer = Restorer(second.archive, second.log, threads, second.folder)

        with pytest.raises(LogDamaged, match="somebody else writes"):
            await restorer.carry_out(state)

    assert await _newest(second, partition) == Position(1, 7)


async def test_what_is_damaged_in_the_archive_is_told_of_that_partition_alone(
    start: StartMachine, store: MemoryStore
) -> None:
    """K3.6: one bad bit; nothing of it is taken, and the others are restored."""
    first, bad, good = await start("first"), new_partition(), _without_files()
    await first.archived(bad, await first.write(bad, *"abc"))
    cursor = Cursor.start(good)
    for _ in range(2):
        cursor = await append_note(first.log, good, cursor)
    await first.archived(good, cursor.position)
    key = next(key for key in store.objects if f"/{bad.token}/" in key and key.endswith(".seg"))
    found = store.objects[key]
    altered = bytearray(found.data)
    altered[len(altered) // 2] ^= 1
    store.objects[key] = found._replace(data=bytes(altered))
    second = await start("second")

    outcome = await second.restore(bad)

    assert outcome.done == Done.REFUSED
    assert outcome.problem
    assert not (second.folder / "notes.db").exists()
    assert await _newest(second, good) == Position(1, 2)


def _without_files() -> PartitionId:
    """Return a partition of which no projection is known here."""
    return PartitionId("node", str(ULID()).lower())


async def _newest(machine: Machine, partition: PartitionId) -> Position:
    message = await last_message(machine.log.reader, partition)
    assert message is not None
    return message_position(message)
