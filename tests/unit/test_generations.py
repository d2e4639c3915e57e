"""Making generations and fetching them: exact, incremental, and refused when anything is not as it was."""

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from events.archive import EVERYTHING
from events.objects.errors import StoreUnavailable
from events.objects.memory import MemoryStore
from events.objects.port import Object, checksum
from projectors.catch_up import fold_group
from projectors.generations.errors import GenerationDamaged, GenerationError, GenerationMissing, OtherHistory
from projectors.generations.fetching import fetch
from projectors.generations.reading import check_history, current, generations, latest, manifest
from projectors.projection import Projection, remove_database
from projectors.rebuild import digest_of
from schemas.archive import EpochTable
from schemas.generation import Manifest, current_key, page_key
from schemas.ids import Position
from tests.failing_store import Failing, Forgetful
from tests.generations import Written, making, named, written
from workers.generations.failures import NotArchived, NotNow
from workers.generations.making import Made, Result


@pytest_asyncio.fixture
async def notes(tmp_path: Path) -> AsyncIterator[Written]:
    async with written(tmp_path / "node") as opened:
        yield opened


async def made(notes: Written, folder: Path, *, verify: float = 1.0) -> Made:
    async with making(notes.archive, folder / "scratch", verify=verify) as maker:
        return await maker.make(notes.partition, notes.spec)


async def generation(notes: Written, folder: Path, *, verify: float = 1.0) -> Manifest:
    found = (await made(notes, folder, verify=verify)).generation
    assert found is not None
    return found


def keys(notes: Written, part: str) -> set[str]:
    assert isinstance(notes.store, MemoryStore)
    return {key for key in notes.store.objects if f"/{part}/" in key}


async def assert_fetched(notes: Written, found: Manifest, path: Path) -> None:
    """Fail unless a generation is fetched as exactly what was written, and the log goes on from it."""
    await fetch(notes.archive, found, path)
    assert digest_of(path) == notes.digests[found.at] == found.digest
    remove_database(path)


async def test_a_generation_is_the_projection_at_exactly_the_position_that_it_names(
    notes: Written, tmp_path: Path
) -> None:
    """K3.2, K3.4, K3.5, PR4: what is fetched and the archived records after it give what the node has."""
    await notes.write(*(f"note {n}" for n in range(20)))
    found = await generation(notes, tmp_path)
    await notes.write("after")

    await fetch(notes.archive, found, tmp_path / "fetched.db")
    fetched = Projection(notes.spec, notes.partition, tmp_path / "fetched.db")
    assert str(fetched.cursor.position) == found.position == "1.20"
    following = [e async for e in notes.archive.read(notes.partition, fetched.cursor, EVERYTHING)]
    fold_group(notes.domain, [fetched], following)
    fetched.close()

    assert digest_of(tmp_path / "fetched.db") == notes.digests[Position(1, 21)]
    assert (found.partition, found.version, found.previous) == (notes.partition.subject, notes.spec.version, None)
    assert not list((tmp_path / "scratch").iterdir())


async def test_only_what_changed_is_stored(notes: Written, tmp_path: Path) -> None:
    """G26, K3.6: an unchanged chunk is stored once, ever; a projection that stands still costs nothing."""
    await notes.write(*(f"{n} " * 2000 for n in range(300)))
    first = await generation(notes, tmp_path)
    before = keys(notes, "pages")
    assert len(before) > 20
    await notes.write("a little more")

    second = await generation(notes, tmp_path)
    new = keys(notes, "pages") - before
    everything = dict(notes.store.objects)
    third = await made(notes, tmp_path)

    assert len(new) <= 4
    assert len(set(first.chunks) & await named(notes.archive, second)) >= len(set(first.chunks)) - 4
    assert second.previous == first.position
    assert third.result is Result.UNCHANGED
    assert notes.store.objects == everything
    for found in (first, second):
        await assert_fetched(notes, found, tmp_path / "fetched.db")


async def test_a_generation_never_stands_where_the_archive_is_not(notes: Written, tmp_path: Path) -> None:
    """Generation and segments are the whole history, always."""
    await notes.write("a")
    await notes.write("not archived", archived=False)
    with pytest.raises(NotArchived):
        await made(notes, tmp_path)
    assert await notes.latest() is None
    assert not keys(notes, "gen")

    await notes.archive_all()
    assert (await generation(notes, tmp_path)).position == "1.2"


async def test_a_generation_of_another_history_is_refused(notes: Written, tmp_path: Path) -> None:
    """K3.4: the archive has other records than the projection folded."""
    await notes.write("a", "b")
    async with written(tmp_path / "other") as other:
        await other.write("a", "c")
        stranger = (await generation(other, tmp_path)).model_copy(update={"partition": notes.partition.subject})
    with pytest.raises(OtherHistory):
        await check_history(notes.archive, stranger)
    with pytest.raises(OtherHistory):
        await check_history(notes.archive, stranger.model_copy(update={"position": "1.3"}))


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("after", range(1, 9))
async def test_a_failure_at_any_step_converges(tmp_path: Path, after: int, done: bool) -> None:
    """K3.3, PR5: whatever was stored when it ended, the next try makes the same of it, and counts it once."""
    store = Failing(10**9, done=done)
    async with written(tmp_path / "node", store) as notes:
        await notes.write(*(f"{n} " * 2000 for n in range(60)))
        store.left = after
        for _ in range(3):
            try:
                found = await generation(notes, tmp_path)
                break
            except StoreUnavailable:
                assert not list((tmp_path / "scratch").iterdir())
        assert (await latest(notes.archive, "notes")) == found
        assert len(keys(notes, "1.60")) == 1
        await assert_fetched(notes, found, tmp_path / "fetched.db")


async def test_a_flipped_bit_anywhere_is_refused(notes: Written, tmp_path: Path) -> None:
    """K3.6: in a chunk or patch also if the store does not notice; an older generation is still there then."""
    await notes.write(*(f"{n} " * 2000 for n in range(60)))
    old = await generation(notes, tmp_path)
    await notes.write(*(f"{n} " * 2000 for n in range(60, 120)))
    new = await generation(notes, tmp_path)
    objects = notes.store.objects
    rng = random.Random(5)

    def flipped(key: str, *, noticed: bool) -> Object:
        data = bytearray(objects[key].data)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return Object(bytes(data), objects[key].tag if noticed else checksum(bytes(data)))

    for noticed in (True, False):
        pages = [notes.archive.key(page_key(cid)) for cid in await named(notes.archive, new)]
        for key in pages if not noticed else [*pages, *keys(notes, "gen")]:
            whole = objects[key]
            objects[key] = flipped(key, noticed=noticed)
            try:
                await read_all(notes, (old, new), tmp_path / "fetched.db")
            except GenerationDamaged:
                assert not (tmp_path / "fetched.db").exists()
            else:  # zstd has a bit in the head of a frame that means nothing
                assert (key in pages, noticed) == (True, False)
                assert digest_of(tmp_path / "fetched.db") == new.digest
                remove_database(tmp_path / "fetched.db")
            objects[key] = whole
    await assert_fetched(notes, new, tmp_path / "fetched.db")


async def read_all(notes: Written, every: Sequence[Manifest], path: Path) -> None:
    await current(notes.archive, "notes")
    for found in every:
        await manifest(notes.archive, "notes", found.at)
    await fetch(notes.archive, every[-1], path)


async def test_generations_are_found_newest_first_and_damaged_ones_passed_over(notes: Written, tmp_path: Path) -> None:
    """A restore has something to fall back on."""
    found = []
    for n in range(4):
        await notes.write(f"note {n}")
        found.append(await generation(notes, tmp_path))
    key = notes.archive.key(str(found[2].key))
    del notes.store.objects[key]

    there = [one async for one in generations(notes.archive, "notes")]
    assert there == [found[3], found[1], found[0]]
    assert [one async for one in generations(notes.archive, "notes", Position(1, 3))] == [found[1], found[0]]
    with pytest.raises(GenerationMissing):
        await manifest(notes.archive, "notes", found[2].at)

    pointer = notes.archive.key(current_key("notes"))
    notes.store.objects[pointer] = Object(b"{}", checksum(b"{}"))
    with pytest.raises(GenerationError):
        await current(notes.archive, "notes")
    assert [one async for one in generations(notes.archive, "notes")] == there
    await notes.write("more")
    mended = await generation(notes, tmp_path)
    assert await latest(notes.archive, "notes") == mended


async def test_a_chunk_that_the_archive_lost_is_mended_before_the_pointer_moves(notes: Written, tmp_path: Path) -> None:
    """A restore proves a generation, and what it misses is still here."""
    await notes.write(*(f"{n} " * 2000 for n in range(60)))
    first = await generation(notes, tmp_path)
    lost, altered = (notes.archive.key(f"pages/{cid[:2]}/{cid}") for cid in first.chunks[3:5])
    del notes.store.objects[lost]
    notes.store.objects[altered] = Object(b"nonsense", checksum(b"nonsense"))
    await notes.write("more")

    second = await generation(notes, tmp_path)

    assert {*first.chunks[3:5]} <= {*second.chunks}
    for found in (first, second):
        await assert_fetched(notes, found, tmp_path / "fetched.db")


async def test_a_generation_that_cannot_be_restored_never_counts(tmp_path: Path) -> None:
    """K3.6: it is refused loudly, made again, and counts when it is whole."""
    store = Forgetful()
    async with written(tmp_path / "node", store) as notes:
        await notes.write("a")
        first = await generation(notes, tmp_path)
        await notes.write("b")
        store.forgets = True
        with pytest.raises(GenerationMissing):
            await generation(notes, tmp_path)
        assert await notes.latest() == first
        assert len(keys(notes, "1.2")) == 0

        store.forgets = False
        assert (await generation(notes, tmp_path)).position == "1.2"
        pointer = await current(notes.archive, "notes")
        assert pointer is not None
        assert (pointer.verified, pointer.verified_position) == (True, "1.2")


@pytest.mark.parametrize("noticed", [True, False], ids=["by the store", "by what it says"])
async def test_a_damaged_manifest_is_made_again_although_nothing_was_written(
    notes: Written, tmp_path: Path, noticed: bool
) -> None:
    """K3.6: it is removed, and the next try finds nothing in its way."""
    await notes.write("a")
    first = await generation(notes, tmp_path)
    (key,) = keys(notes, "1.1")
    damaged = b"{}"
    notes.store.objects[key] = Object(damaged, notes.store.objects[key].tag if noticed else checksum(damaged))
    with pytest.raises(NotNow, match="made again"):
        await generation(notes, tmp_path)
    assert keys(notes, "1.1") == set()
    again = await generation(notes, tmp_path)
    assert (again.position, again.file) == (first.position, first.file)
    assert await notes.latest() == again


async def test_a_share_of_the_generations_is_proved_and_the_first_always(notes: Written, tmp_path: Path) -> None:
    """The pointer names the newest one that was restored and compared."""
    for n in range(3):
        await notes.write(f"note {n}")
        assert (await made(notes, tmp_path, verify=0)).verified is (n == 0)
    pointer = await current(notes.archive, "notes")
    assert pointer is not None
    assert (pointer.position, pointer.verified, pointer.verified_position) == ("1.3", False, "1.1")


async def test_a_generation_that_stands_where_its_projection_does_can_still_be_proved(
    notes: Written, tmp_path: Path
) -> None:
    """K4.2: the log is held for one that was not, so whoever asks for a generation must be able to end that."""
    for text in ("a", "b"):
        await notes.write(text)
        await made(notes, tmp_path, verify=0)
    async with making(notes.archive, tmp_path / "scratch", verify=0) as maker:
        proved, again = [await maker.make(notes.partition, notes.spec, prove=True) for _ in range(2)]
        end = await notes.write("c")
        newer = await maker.make(notes.partition, notes.spec, prove=True)

    pointer = await current(notes.archive, notes.spec.name)
    assert (proved.result, proved.verified, proved.stored_bytes) == (Result.MADE, True, 0)
    assert again.result is Result.UNCHANGED
    assert newer.verified
    assert pointer is not None
    assert (pointer.verified, pointer.verified_position) == (True, str(end))


async def test_generations_of_a_writer_that_was_taken_over_from_do_not_count(notes: Written, tmp_path: Path) -> None:
    """PR3, PR4: whoever took over goes on from the newest that does, and proves his first one."""
    await notes.write("a", "b", "c")
    counts = await generation(notes, tmp_path)
    await notes.write("lost", "lost too")
    lost = await generation(notes, tmp_path)
    await notes.archive.epochs.begin(EpochTable(epoch=2, ends={notes.partition.token: ((1, 3),)}))
    assert await latest(notes.archive, "notes") == lost
    assert [one async for one in generations(notes.archive, "notes")] == [counts]
    with pytest.raises(OtherHistory):
        await check_history(notes.archive, lost)

    (tmp_path / "other").mkdir()
    await fetch(notes.archive, counts, tmp_path / "other" / "notes.db")
    successor = Written(tmp_path / "other", notes.store, notes.partition, epoch=2)
    await successor.write("d")
    first = await made(successor, tmp_path, verify=0)
    await successor.write("e")
    second = await made(successor, tmp_path, verify=0)
    successor.close()

    assert (first.verified, second.verified) == (True, False)
    there = [one async for one in generations(successor.archive, "notes")]
    assert [one.position for one in there] == ["2.5", "2.4", "1.3"]
    await assert_fetched(successor, there[0], tmp_path / "fetched.db")


async def test_a_projection_without_a_file_has_no_generation(notes: Written, tmp_path: Path) -> None:
    notes.close()
    notes.spec.path.unlink()
    assert (await made(notes, tmp_path)).result is Result.ABSENT
