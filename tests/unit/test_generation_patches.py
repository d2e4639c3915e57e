"""Patches of generations: pages that are written over older chunks, and refused when they are not what was made."""

import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from events.objects.memory import MemoryStore
from events.objects.port import Object, checksum
from projectors.generations.chunks import pack, parts_of
from projectors.generations.errors import GenerationDamaged, GenerationError, GenerationMissing
from projectors.generations.fetching import fetch
from projectors.generations.patches import pages_in, patch_bytes_max, patch_of
from projectors.generations.reading import generations, manifest
from schemas.generation import FORMAT_PATCHED, Manifest, page_key
from tests.faults.killer import fresh_seed
from tests.generations import Written, fetched, making, written
from workers.generations.gate import Gate
from workers.generations.sweeping import sweep

PAGE = 4096
PAGES = st.dictionaries(st.integers(1, 2**32 - 1), st.binary(min_size=512, max_size=512), max_size=20)


@given(PAGES, st.data())
def test_a_patch_is_read_back_and_any_other_length_of_it_refused(pages: dict[int, bytes], draw: st.DataObject) -> None:
    patch = patch_of(list(pages), list(pages.values()))
    assert {number: bytes(page) for number, page in pages_in(patch, 512)} == pages
    assert len(patch) <= patch_bytes_max(512)
    cut = draw.draw(st.integers(0, len(patch) - 1))
    for other in (patch[:cut], patch + b"x"):
        with pytest.raises(GenerationDamaged):
            list(pages_in(other, 512))


def test_a_patch_of_page_zero_is_refused() -> None:
    with pytest.raises(GenerationDamaged):
        list(pages_in(patch_of([0], [bytes(512)]), 512))


@pytest_asyncio.fixture
async def notes(tmp_path: Path) -> AsyncIterator[Written]:
    async with written(tmp_path / "node") as opened:
        yield opened


async def generation(notes: Written, folder: Path) -> tuple[Manifest, bytes]:
    """Make a generation; return it with its file."""
    async with making(notes.archive, folder / "scratch") as maker:
        found = (await maker.make(notes.partition, notes.spec)).generation
    assert found is not None
    return found, await fetched(notes, found, folder)


def split(data: bytes) -> list[bytes]:
    return [data[at : at + PAGE] for at in range(0, len(data), PAGE)]


async def store(notes: Written, data: bytes) -> str:
    cid = blake3(data).hexdigest()
    await notes.store.put(notes.archive.key(page_key(cid)), pack(data))
    return cid


async def patched(notes: Written, below: Manifest, was: bytes, found: Manifest, now: bytes) -> Manifest:
    """Store the generation `found` as patches over the chunks of `below`, which has fewer chunks or as many."""
    rng = random.Random(fresh_seed())
    old, new = split(was), split(now)
    changed = [n for n, page in enumerate(new) if n >= len(old) or page != old[n]]
    stale = [n for n in range(len(new)) if n % 3 == 0]  # of a generation between the two, and beyond the end
    first = patch_of([*(n + 1 for n in stale), len(new) + 7], [rng.randbytes(PAGE) for _ in range(len(stale) + 1)])
    last = sorted({*changed, *stale})
    patches = [await store(notes, first), await store(notes, patch_of([n + 1 for n in last], [new[n] for n in last]))]
    missing = found.chunk_count - below.chunk_count
    chunks = [*below.chunks, *missing * [await store(notes, b"older bytes")]][: found.chunk_count]
    base = [await store(notes, part) for part in parts_of(chunks)]
    made = found.model_copy(update={"format": FORMAT_PATCHED, "chunks": [], "base": base, "patches": patches})
    await notes.store.put(notes.archive.key(str(made.key)), made.model_dump_json().encode())
    return await manifest(notes.archive, "notes", made.at)


@pytest.mark.parametrize("grows", [True, False], ids=["grown", "shrunk"])
async def test_a_generation_is_its_chunks_with_its_patches_over_them(
    notes: Written, tmp_path: Path, grows: bool
) -> None:
    """PR4, K3.6: in their order, the file being longer or shorter than the one whose chunks they are."""
    await notes.write(*(f"{n} " * 1000 for n in range(60)))
    one, one_file = await generation(notes, tmp_path)
    await notes.write(*(f"{n} " * 1000 for n in range(60)))
    two, two_file = await generation(notes, tmp_path)
    assert len(two_file) > len(one_file)
    below, was, found, now = (one, one_file, two, two_file) if grows else (two, two_file, one, one_file)
    made = await patched(notes, below, was, found, now)
    assert await fetched(notes, made, tmp_path) == now

    wrong = [made.patches[::-1], made.patches[:1], made.patches[1:] * 2, [*made.patches, made.base[0]]]
    for patches in (wrong[0], wrong[1], wrong[3]):
        with pytest.raises(GenerationDamaged):
            await fetch(notes.archive, made.model_copy(update={"patches": patches}), tmp_path / "refused.db")
        assert not (tmp_path / "refused.db").exists()
    assert await fetched(notes, made.model_copy(update={"patches": wrong[2]}), tmp_path) == now  # said twice


async def test_a_damaged_or_missing_patch_is_refused_and_an_older_generation_is_there(
    notes: Written, tmp_path: Path
) -> None:
    """K3.6: one flipped bit of a patch, whether the store notices or not; or no patch at all."""
    await notes.write(*(f"{n} " * 1000 for n in range(60)))
    one, one_file = await generation(notes, tmp_path)
    await notes.write("more")
    two, two_file = await generation(notes, tmp_path)
    made = await patched(notes, one, one_file, two, two_file)
    objects, rng = notes.store.objects, random.Random(fresh_seed())
    for key in [notes.archive.key(page_key(cid)) for cid in (*made.patches, *made.base)]:
        whole = objects[key]
        data = bytearray(whole.data)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        objects[key] = Object(bytes(data), whole.tag)
        with pytest.raises(GenerationDamaged):
            await fetch(notes.archive, made, tmp_path / "refused.db")
        objects[key] = Object(bytes(data), checksum(bytes(data)))
        with suppress(GenerationDamaged):  # zstd has a bit in the head of a frame that means nothing
            assert await fetched(notes, made, tmp_path) == two_file
        del objects[key]
        with pytest.raises(GenerationMissing):
            await fetch(notes.archive, made, tmp_path / "refused.db")
        assert [found.at async for found in generations(notes.archive, "notes")] == [two.at, one.at]
        assert await fetched(notes, one, tmp_path) == one_file
        objects[key] = whole
    assert await fetched(notes, made, tmp_path) == two_file


@pytest.mark.parametrize(
    "change",
    [
        {"format": FORMAT_PATCHED + 1},
        {"format": 1},
        {"patches": []},
        {"base": []},
        {"chunks": ["ab" * 32]},
        {"parts": ["ab" * 32]},
    ],
    ids=str,
)
async def test_a_manifest_that_does_not_belong_together_is_refused(
    notes: Written, tmp_path: Path, change: dict[str, object]
) -> None:
    """So is that of a newer Forge, before anything is fetched; and nothing is swept: what it names is unknown."""
    await notes.write("a")
    one, one_file = await generation(notes, tmp_path)
    made = await patched(notes, one, one_file, one, one_file)
    data = made.model_copy(update=change).model_dump_json().encode()
    await notes.store.put(notes.archive.key(str(made.key)), data)
    with pytest.raises(GenerationDamaged):
        await manifest(notes.archive, "notes", made.at)
    with pytest.raises(GenerationError):
        await sweep(notes.archive, tmp_path / "sweep.db", Gate(), grace_s=0, now_s=1)


async def test_what_a_patched_generation_names_is_not_swept(notes: Written, tmp_path: Path) -> None:
    """PR4: neither its patches nor the list of its chunks, nor these."""
    await notes.write(*(f"{n} " * 1000 for n in range(60)))
    one, one_file = await generation(notes, tmp_path)
    await notes.write("more")
    two, two_file = await generation(notes, tmp_path)
    made = await patched(notes, one, one_file, two, two_file)
    await notes.store.delete(notes.archive.key(str(one.key)))
    for now_s in (1, 1000):
        await sweep(notes.archive, tmp_path / "sweep.db", Gate(), grace_s=1, now_s=now_s)
    assert isinstance(notes.store, MemoryStore)
    kept = {key for key in notes.store.objects if "/pages/" in key}
    assert kept == {notes.archive.key(page_key(cid)) for cid in (*one.chunks, *made.base, *made.patches)}
    assert await fetched(notes, made, tmp_path) == two_file
