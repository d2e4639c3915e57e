"""Pointers that never go back, generations that are kept, and chunks that go only when nobody names them."""

import asyncio
import random
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from events.archive import Archive
from events.objects.errors import StoreUnavailable
from events.objects.memory import MemoryStore
from events.objects.port import Object, checksum
from projectors.generations.errors import GenerationDamaged
from projectors.generations.fetching import fetch
from projectors.generations.reading import current, generations, manifest, positions
from projectors.projection import remove_database
from projectors.rebuild import digest_of
from schemas.generation import CurrentGeneration, GenerationKey, page_key
from schemas.ids import Position
from schemas.instants import later, now
from tests.failing_store import Failing, Holding
from tests.generations import PREFIX, Written, making, named, written
from tests.notes import TIME
from workers.generations.gate import Gate
from workers.generations.pointer import move
from workers.generations.retention import thin, unneeded
from workers.generations.sweeping import sweep

DAY_S = 86_400
GRACE_S = 100.0
POSITIONS = st.builds(Position, st.integers(1, 3), st.integers(1, 30))


def pointer(at: Position, *, verified: bool = False) -> CurrentGeneration:
    return CurrentGeneration(
        projection="notes",
        position=str(at),
        manifest=blake3(str(at).encode()).hexdigest(),
        size_bytes=1,
        verified=verified,
        verified_position=str(at) if verified else None,
        time=TIME,
        moved_at=TIME,
        node="test-node",
    )


class Yielding(MemoryStore):
    """A store that lets others run before each call, for a random number of rounds."""

    rng = random.Random(0)

    async def _others(self) -> None:
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)

    async def get(self, key: str) -> Object:
        await self._others()
        return await super().get(key)

    async def create(self, key: str, data: bytes) -> str:
        await self._others()
        return await super().create(key, data)

    async def swap(self, key: str, data: bytes, tag: str) -> str:
        await self._others()
        return await super().swap(key, data, tag)

    async def delete(self, key: str) -> None:
        await self._others()
        await super().delete(key)


@settings(max_examples=60)
@given(st.lists(st.tuples(POSITIONS, st.booleans()), min_size=1, max_size=5), st.randoms(use_true_random=False))
async def test_a_pointer_never_goes_back(moves: Sequence[tuple[Position, bool]], rng: random.Random) -> None:
    """K3.6: whoever moves it, and however many at a time; the newest position that was verified is known."""
    store = Yielding()
    store.rng = rng
    archive = Archive(store, PREFIX)
    outcomes = await asyncio.gather(
        *(move(archive, pointer(at, verified=verified)) for at, verified in moves), return_exceptions=True
    )
    assert all(isinstance(one, CurrentGeneration | StoreUnavailable) for one in outcomes)
    done = [at for (at, _), outcome in zip(moves, outcomes, strict=True) if isinstance(outcome, CurrentGeneration)]
    found = await current(archive, "notes")
    assert found is not None
    assert found.at == max(done)
    before = found
    await move(archive, pointer(Position(1, 0), verified=True))
    assert await current(archive, "notes") == before


@given(st.lists(st.integers(0, 20 * DAY_S), max_size=30), st.integers(0, 10))
def test_of_each_day_the_last_generation_stays(ages_s: list[int], days: int) -> None:
    """And none of days before those that are kept, but the newest that was verified."""
    noon = "2026-05-20T12:00:00.000000Z"
    made = [(Position(1, 100 - n), later(noon, -age_s)) for n, age_s in enumerate(sorted(ages_s))]
    verified = made[-1][0] if made else Position(1, 1)
    names = pointer(Position(1, 200)).model_copy(update={"verified_position": str(verified)})
    since = later(noon, -days * DAY_S)

    gone = set(unneeded(made, names, since=since))

    last = {at[:10]: position for position, at in reversed(made) if at >= since}
    assert {position for position, _ in made} - gone == {*last.values(), *([verified] if made else [])}


class FailingAndYielding(Failing, Yielding):
    """Both."""


async def generate(notes: Written, scratch: Path, gate: Gate, *, verify: float = 0.0) -> None:
    async with making(notes.archive, scratch, gate=gate, verify=verify) as maker:
        await maker.make(notes.partition, notes.spec)


async def assert_all_whole(notes: Written, path: Path) -> None:
    """Fail unless each generation that counts can be fetched as what was written."""
    async for found in generations(notes.archive, "notes"):
        await fetch(notes.archive, found, path)
        assert digest_of(path) == notes.digests[found.at]
        remove_database(path)


async def thinned(notes: Written, keep: int = 1) -> None:
    await thin(notes.archive, "notes", keep=keep, keep_days=0, now=now())


def texts(rng: random.Random) -> list[str]:
    return [f"{rng.randrange(10**6)} " * rng.randrange(1, 3000) for _ in range(rng.randrange(1, 12))]


@pytest.mark.parametrize("seed", range(6))
async def test_no_chunk_that_a_generation_names_is_ever_swept(tmp_path: Path, seed: int) -> None:
    """PR4: makers that fail at random calls, thinning and sweeps, one after the other and at the same time."""
    rng = random.Random(seed)
    store, gate, clock_s = FailingAndYielding(10**9, done=seed % 2 == 0), Gate(), 1e9
    store.rng = rng
    async with written(tmp_path / "node", store) as notes:
        for _ in range(8):
            await notes.write(*texts(rng))
            store.left = rng.choice([rng.randrange(1, 12), 10**9])
            clock_s += rng.choice([1, GRACE_S])
            await asyncio.gather(
                generate(notes, tmp_path / "scratch", gate, verify=rng.random()),
                sweep(notes.archive, tmp_path / "sweep.db", gate, grace_s=rng.choice([0, GRACE_S]), now_s=clock_s),
                thinned(notes, rng.randrange(1, 4)),
                return_exceptions=True,
            )
            store.left = 10**9
            await assert_all_whole(notes, tmp_path / "fetched.db")
        await notes.write("the last")
        await generate(notes, tmp_path / "scratch", gate, verify=1)
        await thinned(notes)
        for n in (1, 2):
            await sweep(notes.archive, tmp_path / "sweep.db", gate, grace_s=GRACE_S, now_s=clock_s + n * GRACE_S)
        (last,) = await positions(notes.archive, "notes")
        names = await named(notes.archive, await manifest(notes.archive, "notes", last))
        kept = {key for key in store.objects if "/pages/" in key}
        assert kept == {notes.archive.key(page_key(cid)) for cid in names}
        await assert_all_whole(notes, tmp_path / "fetched.db")


async def test_a_chunk_stays_as_long_as_somebody_may_be_reading_it(tmp_path: Path) -> None:
    """A restore that began before a generation was removed comes to its end."""
    gate, sweeps = Gate(), tmp_path / "sweep.db"
    async with written(tmp_path / "node") as notes:
        await notes.write(*(f"{n} " * 2000 for n in range(60)))
        await generate(notes, tmp_path / "scratch", gate, verify=1)
        old = await notes.latest()
        assert old is not None
        await notes.write(*(f"{n} " * 2000 for n in range(60)))
        shutil.rmtree(tmp_path / "pages")  # so that chunks are stored whole, and the older ones not needed any more
        await generate(notes, tmp_path / "scratch", gate, verify=1)
        await thinned(notes)
        assert await positions(notes.archive, "notes") == [Position(1, 120)]

        found = await sweep(notes.archive, sweeps, gate, grace_s=GRACE_S, now_s=1000)
        assert (found.removed, found.unnamed > 0) == (0, True)
        assert (await sweep(notes.archive, sweeps, gate, grace_s=GRACE_S, now_s=1000 + GRACE_S - 1)).removed == 0
        await fetch(notes.archive, old, tmp_path / "fetched.db")
        assert (await sweep(notes.archive, sweeps, gate, grace_s=GRACE_S, now_s=1000 + GRACE_S)).unnamed == 0


async def test_nothing_is_swept_while_a_manifest_cannot_be_read(tmp_path: Path) -> None:
    """What it names is unknown."""
    gate = Gate()
    async with written(tmp_path / "node") as notes:
        await notes.write("a")
        await generate(notes, tmp_path / "scratch", gate)
        key = notes.archive.key(str(GenerationKey("notes", Position(1, 1))))
        whole, lost = notes.store.objects[key], notes.archive.key(page_key("ab" * 32))
        notes.store.objects[key] = Object(b"{}", checksum(b"{}"))
        await notes.store.create(lost, b"nobody names this")
        before = set(notes.store.objects)
        for n in (1, 2):
            with pytest.raises(GenerationDamaged):
                await sweep(notes.archive, tmp_path / "sweep.db", gate, grace_s=0, now_s=n)
        assert set(notes.store.objects) == before
        notes.store.objects[key] = whole
        (tmp_path / "sweep.db").write_bytes(b"damaged, as anything on a disk may be")
        await sweep(notes.archive, tmp_path / "sweep.db", gate, grace_s=0, now_s=3)
        assert before - set(notes.store.objects) == {lost}


async def test_a_chunk_that_is_about_to_be_named_is_not_swept(tmp_path: Path) -> None:
    """It was left by a try that failed long ago, and the next try has just found it."""
    store, gate = Holding(), Gate()
    async with written(tmp_path / "node", store) as notes:
        await notes.write("a")
        await generate(notes, tmp_path / "scratch", gate)
        named = {key: found for key, found in store.objects.items() if "/gen/" in key}
        await notes.write(*(f"{n} " * 2000 for n in range(60)))
        await generate(notes, tmp_path / "scratch", gate)
        for key in [key for key in store.objects if "/gen/" in key]:
            del store.objects[key]
        store.objects |= named
        await sweep(notes.archive, tmp_path / "sweep.db", gate, grace_s=1, now_s=1)

        store.holds = "manifest.json"
        making = asyncio.create_task(generate(notes, tmp_path / "scratch", gate))
        await store.reached.wait()
        sweeping = asyncio.create_task(sweep(notes.archive, tmp_path / "sweep.db", gate, grace_s=1, now_s=1000))
        await asyncio.wait({sweeping}, timeout=0.3)
        store.go.set()
        await asyncio.gather(making, sweeping)
        await assert_all_whole(notes, tmp_path / "fetched.db")


async def test_a_sweep_waits_for_makers_and_keeps_new_ones_waiting() -> None:
    gate, order = Gate(), []
    inside, leave = asyncio.Event(), asyncio.Event()

    async def make(name: str) -> None:
        async with gate.shared():
            order.append(name)
            inside.set()
            await leave.wait()

    async def alone() -> None:
        async with gate.alone():
            order.append("sweep")

    first = asyncio.create_task(make("first"))
    await inside.wait()
    sweeping = asyncio.create_task(alone())
    await asyncio.sleep(0)
    second = asyncio.create_task(make("second"))
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await asyncio.shield(second)
    assert order == ["first"]
    leave.set()
    await asyncio.gather(first, sweeping, second)
    assert order == ["first", "sweep", "second"]


async def test_what_a_history_begins_with_stays(tmp_path: Path) -> None:
    """G26: the oldest generation that can be used, where the first segments were removed, however few are kept."""
    async with written(tmp_path / "node") as notes:
        made = []
        for text in "abcde":
            made.append(await notes.write(text))
            await generate(notes, tmp_path / "scratch", Gate())
        first, second, *_ = [key async for key in notes.archive.segments(notes.partition, made[0])]
        for key in (first, second):
            await notes.store.delete(notes.archive.key(str(key)))

        await thin(notes.archive, notes.spec.name, keep=1, keep_days=0, now=now())

        verified = made[0]  # the first one always is
        assert await positions(notes.archive, notes.spec.name) == [made[4], made[2], verified]
