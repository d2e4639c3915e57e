"""Drills: what is restored is compared with the node, or with all records, and every damage makes it red."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from events.objects.memory import MemoryStore
from events.objects.port import Object, checksum
from forge.restore.drill import Drill, NotDrilled
from forge.restore.drills import drilled, keep, last
from forge.restore.fresh import Wanted, fold_at
from projectors.rebuild import digest_of
from projectors.threads import Threads
from schemas.drill import DrillResult, drill_key, parse_drill_key
from schemas.generation import page_key
from schemas.ids import InvalidId
from tests.generations import Written, making, written

DRILLING = """
import asyncio, pathlib, sys
from forge.restore.scratch import scratch_folder

async def drill():
    async with scratch_folder(pathlib.Path(sys.argv[1])) as folder:
        print(folder, flush=True)
        await asyncio.Event().wait()

asyncio.run(drill())
"""


@pytest_asyncio.fixture
async def notes(tmp_path: Path) -> AsyncIterator[Written]:
    async with written(tmp_path / "node") as opened:
        yield opened


async def drill(notes: Written, folder: Path) -> DrillResult:
    with Threads(1) as threads:
        result = await Drill(notes.archive, threads, folder / "scratch", "test-node", wait_s=0).run(
            notes.domain, notes.partition, notes.spec
        )
    assert not list((folder / "scratch").iterdir())
    return result


async def test_what_a_killed_drill_left_goes_with_the_next_one_and_nothing_else(notes: Written, tmp_path: Path) -> None:
    """PR7: databases of dead drills must not fill the disk; those of living ones, and files of others, are left."""
    scratch = tmp_path / "scratch"
    command = (sys.executable, "-c", DRILLING, str(scratch))
    dead, alive = [await asyncio.create_subprocess_exec(*command, stdout=-1) for _ in range(2)]
    left, used = [Path((await one.stdout.readline()).decode().strip()) for one in (dead, alive) if one.stdout]
    for folder in (left, used):
        (folder / "restored.db").write_bytes(b"x")
    (scratch / "mine").mkdir()
    dead.kill()
    await dead.communicate()
    await notes.write("a")

    with Threads(1) as threads:
        await Drill(notes.archive, threads, scratch, "test-node", wait_s=0).run(
            notes.domain, notes.partition, notes.spec
        )

    assert sorted(scratch.iterdir()) == sorted([used, scratch / "mine"])
    assert (used / "restored.db").exists()
    alive.kill()
    await alive.communicate()


async def generation(notes: Written, folder: Path) -> None:
    async with making(notes.archive, folder / "making") as maker:
        assert (await maker.make(notes.partition, notes.spec)).generation is not None


async def test_a_sound_archive_is_green_and_says_what_it_was_compared_with(notes: Written, tmp_path: Path) -> None:
    """PR4: from the newest generation and the records after it, equal to the node's own database."""
    await notes.write("a", "b")
    await generation(notes, tmp_path)
    end = await notes.write("c")

    result = await drill(notes, tmp_path)

    assert (result.green, result.reason, result.compared_with) == (True, "", "node")
    assert (result.position, result.generation) == (str(end), "1.2")
    assert result.digest == notes.digests[end]


async def test_without_a_node_the_records_alone_must_give_the_same(notes: Written, tmp_path: Path) -> None:
    """PR4: two ways to the same digest."""
    await notes.write("a", "b")
    await generation(notes, tmp_path)
    notes.close()
    notes.spec.path.unlink()

    result = await drill(notes, tmp_path)

    assert (result.green, result.compared_with, result.generation) == (True, "records", "1.2")


@pytest.mark.parametrize("part", ["manifest.json", "current.json", "pages/"])
async def test_a_damaged_generation_is_red_although_the_records_restore_it(
    notes: Written, tmp_path: Path, part: str
) -> None:
    """K3.6, PR4: one bad bit in the newest one; what is restored is right, from an older one or the records alone."""
    await notes.write("a")
    await generation(notes, tmp_path)
    before = dict(notes.store.objects) if isinstance(notes.store, MemoryStore) else {}
    end = await notes.write("b", "c")
    await generation(notes, tmp_path)
    _alter(notes, next(key for key in _store(notes).objects if part in key and _is_newer(notes, before, key)))

    result = await drill(notes, tmp_path)
    with Threads(1) as threads:
        made = tmp_path / "made.db"
        await fold_at(notes.archive, threads, Wanted(notes.partition, notes.domain, [notes.spec], notes.end), [made])

    assert not result.green
    assert result.reason
    assert digest_of(made) == result.digest == notes.digests[end]


async def test_a_patched_generation_is_drilled_and_one_with_a_damaged_patch_red(notes: Written, tmp_path: Path) -> None:
    """K3.6, PR4: what is restored comes from the patched one, or from the older one without it, and is the same."""
    await notes.write(*(f"{n} " * 2000 for n in range(60)))
    await generation(notes, tmp_path)
    await notes.write("b")
    await generation(notes, tmp_path)
    newest, end = await notes.latest(), await notes.write("c")
    assert newest is not None
    assert newest.patches

    green = await drill(notes, tmp_path)
    _alter(notes, notes.archive.key(page_key(newest.patches[0])))
    red = await drill(notes, tmp_path)
    with Threads(1) as threads:
        made = tmp_path / "made.db"
        wanted = Wanted(notes.partition, notes.domain, [notes.spec], notes.end)
        (begun,) = (await fold_at(notes.archive, threads, wanted, [made])).generations

    assert (green.green, green.generation) == (True, newest.position)
    assert not red.green
    assert begun is not None
    assert begun.position == newest.previous == "1.60"
    assert digest_of(made) == red.digest == notes.digests[end]


async def test_a_node_that_differs_is_red(notes: Written, tmp_path: Path) -> None:
    """PR2: one row that nobody wrote."""
    await notes.write("a")
    notes.projections[0].db.execute("UPDATE note SET text = 'changed'")

    result = await drill(notes, tmp_path)

    assert not result.green
    assert "its digest is" in result.reason


async def test_what_is_not_archived_in_time_is_red(notes: Written, tmp_path: Path) -> None:
    await notes.write("a")
    await notes.write("b", archived=False)

    result = await drill(notes, tmp_path)

    assert "1.2, which is not archived" in result.reason


async def test_nothing_cannot_be_drilled(notes: Written, tmp_path: Path) -> None:
    with pytest.raises(NotDrilled):
        await drill(notes, tmp_path)


async def test_the_last_drill_is_remembered(notes: Written, tmp_path: Path) -> None:
    await notes.write("a")
    first = await drill(notes, tmp_path)
    assert await last(notes.archive, notes.spec.name) is None

    await keep(notes.archive, first)
    second = first.model_copy(update={"green": False, "reason": "asked for"})
    await keep(notes.archive, second)

    assert await last(notes.archive, notes.spec.name) == second
    assert [name async for name in drilled(notes.archive)] == [notes.spec.name]


@pytest.mark.parametrize("projection", ["control", "vector/queue", "doc/Notes.2026"])
def test_keys_say_of_which_projection_they_are(projection: str) -> None:
    assert parse_drill_key(drill_key(projection)) == projection
    with pytest.raises(InvalidId):
        parse_drill_key(f"{drill_key(projection)}x")


def _store(notes: Written) -> MemoryStore:
    assert isinstance(notes.store, MemoryStore)
    return notes.store


def _is_newer(notes: Written, before: dict[str, Object], key: str) -> bool:
    return before.get(key) != _store(notes).objects[key]


def _alter(notes: Written, key: str) -> None:
    """Change one bit, and let the store hand it out as if it were sound."""
    data = bytearray(_store(notes).objects[key].data)
    data[len(data) // 2] ^= 1
    _store(notes).objects[key] = Object(bytes(data), checksum(bytes(data)))
