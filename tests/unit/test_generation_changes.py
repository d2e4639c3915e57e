"""Generations of a file that changes in every way that SQLite knows: each is its copy, and costs what changed."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Event

import apsw
import pytest

from events.objects.errors import StoreUnavailable
from events.objects.memory import MemoryStore
from events.objects.port import Object, checksum
from projectors.copying import copy_projection
from projectors.generations.errors import GenerationMissing
from projectors.generations.reading import generations, latest, positions
from projectors.projection import remove_database
from schemas.generation import current_key, page_key
from schemas.ids import Position
from tests.failing_store import Failing, Forgetful, Holding
from tests.faults.killer import fresh_seed
from tests.generations import Written, fetched, making, named, written
from workers.generations.gate import Gate
from workers.generations.making import Made, Result
from workers.generations.sweeping import sweep

PAGE = 4096
NEVER = 10**9
BIG_ROWS = 4000  # of a page each: 16 MiB
GENERATION_PAGES = 12  # that any generation stores: page 1, position, roots, and a free one or two
GENERATION_BYTES = 20 << 10  # of manifest, pointer, and the list of chunks if one is stored whole


@asynccontextmanager
async def rows(folder: Path, store: MemoryStore, rng: random.Random, count: int) -> AsyncIterator[Written]:
    """Give a projection with a table of so many rows, each in a page of its own."""
    async with written(folder / "node", store) as notes:
        db = notes.projections[0].db
        db.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, data BLOB)")
        add(db, rng, count)
        yield notes


def copied(notes: Written, folder: Path) -> bytes:
    """Return the file of the projection as it is now."""
    path = folder / "copied.db"
    copy_projection(notes.spec.path, path, Event())
    data = path.read_bytes()
    remove_database(path)
    return data


async def made(notes: Written, folder: Path, *, verify: float = 0.0) -> Made:
    async with making(notes.archive, folder / "scratch", verify=verify) as maker:
        return await maker.make(notes.partition, notes.spec)


def add(db: apsw.Connection, rng: random.Random, count: int, size_bytes: int = 3000) -> None:
    db.executemany("INSERT INTO row (data) VALUES (?)", [(rng.randbytes(size_bytes),) for _ in range(count)])


def change(db: apsw.Connection, rng: random.Random) -> str:
    """Change the file in some way."""
    kind = rng.choice(["add", "update", "update", "update", "longer", "delete", "vacuum", "table", "none"])
    ids = [n for (n,) in db.execute("SELECT id FROM row")]
    some = rng.sample(ids, min(len(ids), rng.randrange(1, 20)))
    if kind == "add":
        add(db, rng, rng.randrange(1, 150))
    elif kind == "update":
        db.executemany("UPDATE row SET data = ? WHERE id = ?", [(rng.randbytes(3000), n) for n in some])
    elif kind == "longer":
        db.executemany("UPDATE row SET data = ? WHERE id = ?", [(rng.randbytes(9000), n) for n in some])
    elif kind == "delete":
        first = rng.choice(ids or [0])
        db.execute("DELETE FROM row WHERE id BETWEEN ? AND ?", (first, first + rng.randrange(1, 60)))
    elif kind == "vacuum":
        db.execute("VACUUM")
    elif kind == "table":
        db.execute("CREATE TABLE other AS SELECT * FROM row WHERE id % 2; DROP TABLE row; VACUUM")
        db.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, data BLOB); INSERT INTO row SELECT * FROM other")
        db.execute("DROP TABLE other")
    return kind


def disturb(folder: Path, rng: random.Random, kept: list[bytes]) -> None:
    """Lose what is known of the pages, damage it, or put back what was known of an older generation."""
    tables = list((folder / "pages").glob("*.pages"))
    if not tables:
        return
    kept.append(tables[0].read_bytes())
    kind = rng.choice(["leave", "leave", "leave", "lose", "damage", "old"])
    if kind == "lose":
        tables[0].unlink()
    elif kind == "damage":
        data = bytearray(kept[-1])
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        tables[0].write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
    elif kind == "old":
        tables[0].write_bytes(rng.choice(kept))


@pytest.mark.parametrize("rounds", [25, pytest.param(400, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_whatever_changes_each_generation_is_its_copy(tmp_path: Path, done: bool, rounds: int) -> None:
    """PR4, K3.5, K3.6: makers fail at any step, what is known of pages is lost, damaged or old, sweeps go on."""
    rng, store = random.Random(fresh_seed()), Failing(NEVER, done=done)
    files, kept, patched = dict[str, bytes](), list[bytes](), 0
    async with rows(tmp_path, store, rng, 250) as notes:
        for number in range(rounds):
            kinds = [change(notes.projections[0].db, rng) for _ in range(rng.randrange(1, 3))]
            await notes.write(f"after {kinds}")
            files[str(notes.position)] = copied(notes, tmp_path)
            store.left = rng.choice([NEVER, NEVER, rng.randrange(1, 12)])
            with suppress(StoreUnavailable):
                await made(notes, tmp_path, verify=rng.choice([0, 0, 1]))
            store.left = NEVER
            found = (await made(notes, tmp_path)).generation
            assert found is not None
            assert await fetched(notes, found, tmp_path) == files[found.position], kinds
            patched += bool(found.patches)
            disturb(tmp_path, rng, kept)
            if number % 5 == 0:
                await sweep(notes.archive, tmp_path / "sweep.db", Gate(), grace_s=1, now_s=float(number))
        assert 0 < patched < rounds
        async for found in generations(notes.archive, "notes"):
            assert await fetched(notes, found, tmp_path) == files[found.position]


async def test_a_file_that_loses_its_last_pages_is_restored_however_much_else_changed(tmp_path: Path) -> None:
    """PR4, K3.5: with patches, and without one because whole chunks changed."""
    rng, patched = random.Random(fresh_seed()), set[bool]()
    for count in range(0, 30, 3):
        folder = tmp_path / str(count)
        async with written(folder / "node", MemoryStore()) as notes:
            db = notes.projections[0].db
            for setting in ("PRAGMA auto_vacuum=INCREMENTAL", "VACUUM"):
                db.execute(setting)
            db.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, data BLOB)")
            add(db, rng, 200)
            db.execute("DELETE FROM row WHERE id > 150")
            await notes.write("long")
            before = (await made(notes, folder)).generation
            db.execute("PRAGMA incremental_vacuum").fetchall()
            db.executemany("UPDATE row SET data = ? WHERE id <= ?", [(rng.randbytes(3000), count)])
            await notes.write("short")
            found = (await made(notes, folder)).generation
            assert before is not None
            assert found is not None
            assert found.size_bytes < before.size_bytes
            assert await fetched(notes, found, folder) == copied(notes, folder)
            patched.add(bool(found.patches))
    assert patched == {True, False}


async def test_what_is_stored_is_bounded_by_the_pages_that_changed(tmp_path: Path) -> None:
    """G26, K3.6: of a large file of which some rows changed here and there; the manifest and all else included."""
    rng, store = random.Random(fresh_seed()), MemoryStore()
    async with rows(tmp_path, store, rng, BIG_ROWS) as notes:
        db = notes.projections[0].db
        await notes.write("begin")
        await made(notes, tmp_path)
        for count in (0, 1, 20, 200, 1, 3):
            changes = [(rng.randbytes(3000), n + 1) for n in rng.sample(range(BIG_ROWS), count)]
            db.executemany("UPDATE row SET data = ? WHERE id = ?", changes)
            await notes.write("a note")
            known = set(store.objects)
            result = await made(notes, tmp_path)
            assert result.result is Result.MADE
            new = [key for key in set(store.objects) - known if "/log/" not in key]
            stored = sum(len(store.objects[key].data) for key in [*new, notes.archive.key(current_key("notes"))])
            assert result.stored_bytes < stored <= (count + GENERATION_PAGES) * (PAGE + 4) + GENERATION_BYTES
        last = await latest(notes.archive, "notes")
        assert last is not None
        assert await fetched(notes, last, tmp_path) == copied(notes, tmp_path)


async def test_two_who_make_the_same_generation_keep_what_is_known_of_its_pages(tmp_path: Path) -> None:
    """One was asked for while it was due: the second finds the manifest of the first."""
    async with rows(tmp_path, MemoryStore(), random.Random(fresh_seed()), 300) as notes:
        await notes.write("begin")
        both = await asyncio.gather(*(made(notes, tmp_path) for _ in range(2)))
        assert [one.result for one in both] == 2 * [Result.MADE]
        await notes.write("more")
        found = (await made(notes, tmp_path)).generation
        assert found is not None
        assert found.patches
        assert await fetched(notes, found, tmp_path) == copied(notes, tmp_path)


async def test_a_generation_that_comes_late_leaves_what_is_known_of_the_newest(tmp_path: Path) -> None:
    """The pointer does not go back to it, so the next generation is compared with the newer one."""
    store = Holding()
    async with rows(tmp_path, store, random.Random(fresh_seed()), 300) as notes:
        await notes.write("begin")
        store.holds = "/1.1/"
        late = asyncio.create_task(made(notes, tmp_path))
        await store.reached.wait()
        await notes.write("while it is made")
        assert (await made(notes, tmp_path)).generation == await notes.latest()
        store.go.set()
        await late
        await notes.write("more")
        found = (await made(notes, tmp_path)).generation
        assert found is not None
        assert (found.previous, len(found.patches)) == ("1.2", 1)
        assert await fetched(notes, found, tmp_path) == copied(notes, tmp_path)


@pytest.mark.parametrize("damaged", [False, True], ids=["missing", "damaged"])
@pytest.mark.parametrize("what", ["chunk", "patch", "list"])
async def test_what_a_patched_generation_lacks_is_mended_from_the_copy(
    tmp_path: Path, what: str, damaged: bool
) -> None:
    """K3.6: the bytes below its patches, or those of an older one, are not here any more, but all of the file is."""
    rng, store = random.Random(fresh_seed()), MemoryStore()
    async with rows(tmp_path, store, rng, 300) as notes:
        for text in ("begin", "more"):
            await notes.write(text)
            before = (await made(notes, tmp_path)).generation
        assert before is not None
        assert before.patches
        chunks = sorted(await named(notes.archive, before) - set(before.beside_chunks))
        key = notes.archive.key(
            page_key(rng.choice({"chunk": chunks, "patch": before.patches, "list": before.base}[what]))
        )
        if damaged:
            store.objects[key] = Object(b"nonsense", checksum(b"nonsense"))
        else:
            del store.objects[key]
        await notes.write("and more")
        found = await made(notes, tmp_path, verify=1)
        assert found.generation is not None
        assert found.verified
        assert await fetched(notes, found.generation, tmp_path) == copied(notes, tmp_path)
        assert found.generation == await anext(generations(notes.archive, "notes"))


async def test_a_patched_generation_that_cannot_be_restored_never_counts(tmp_path: Path) -> None:
    """K3.6: a store that says it stored what it has not; nor does what was made in its place."""
    store = Forgetful()
    async with rows(tmp_path, store, random.Random(fresh_seed()), 300) as notes:
        await notes.write("begin")
        first = (await made(notes, tmp_path)).generation
        await notes.write("more")
        store.forgets = True
        with pytest.raises(GenerationMissing):
            await made(notes, tmp_path, verify=1)
        assert await latest(notes.archive, "notes") == first
        assert await positions(notes.archive, "notes") == [Position(1, 1)]
