"""The local copy of ingest follows the archive, and is never worse than what was there before."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path

import apsw
import pytest

from events.archive import Archive
from events.cursor import Cursor, Entry
from events.objects.errors import StoreUnavailable
from events.objects.memory import MemoryStore
from events.objects.port import Object
from events.segment import seal, times
from events.streams import stream_of
from forge.cli.vector_copy import lines
from forge.ingest.hydration import Hydrated, State, as_it_is, hydrate
from forge.ingest.precheck import LocalCopy, UnusableCopy
from projectors.projection import connect
from projectors.rebuild import digest_of
from projectors.vector.domain import PARTITION
from schemas.archive import ArchivedPlace, SegmentKey, place_key
from schemas.facts import Command
from schemas.settings import Settings
from schemas.vector import AcceptUpload, ClaimJobs, CompleteJob
from tests.vector_history import HASHES, Rounds, entries, fresh_projections, run

VECTOR = b"\0\0\x80?\0\0\0\xc0"
RECORDS_PER_SEGMENT = 2
Open = Callable[[Settings], AbstractAsyncContextManager[Archive]]


class CountingStore(MemoryStore):
    """Counts what is asked, and can be away for some keys."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.away = ""

    async def get(self, key: str) -> Object:
        if self.away and self.away in key:
            raise StoreUnavailable("S3 does not answer")
        self.asked[key.rpartition(".")[2]] += 1
        return await super().get(key)


def history(*hashes: str, model: str = "m") -> list[Entry]:
    """Return the records in which files become known and get their vectors, three for each."""
    rounds: list[tuple[int, list[tuple[Command, str | None]]]] = []
    for number, file_hash in enumerate(hashes, start=1):
        for command in (
            AcceptUpload(kind="image", file_hash=file_hash, size_bytes=3),
            ClaimJobs(worker_id="a", kinds=("image",), limit=1, lease_s=30),
            CompleteJob(job_id=number, worker_id="a", model=model, vector=VECTOR),
        ):
            rounds.append((0, [(command, None)]))
    as_rounds: Rounds = rounds
    with fresh_projections() as (domain, projections):
        return entries(run(domain, projections, as_rounds))


async def archived(store: MemoryStore, log: Sequence[Entry]) -> Cursor:
    """Put what `store` does not have of `log` into segments, and say where they end."""
    archive, stream = Archive(store, "p"), stream_of(PARTITION)
    before = Cursor.start(PARTITION)
    for start in range(0, len(log), RECORDS_PER_SEGMENT):
        part = log[start : start + RECORDS_PER_SEGMENT]
        first, last = part[0].cursor.position, part[-1].cursor.position
        key = archive.key(str(SegmentKey(stream, PARTITION, first.epoch, first.index, last.index)))
        store.objects.pop(key, None)
        await store.create(key, seal(PARTITION, before, part))
        before = part[-1].cursor
    place = ArchivedPlace(
        partition=PARTITION.subject,
        position=str(before.position),
        hash=before.hash,
        sequence=before.sequence,
        time=times(log[-1].record)[1],
    )
    key = archive.key(place_key(stream, PARTITION))
    store.objects.pop(key, None)
    await store.create(key, place.model_dump_json().encode())
    return before


def opening(store: MemoryStore) -> Open:
    @asynccontextmanager
    async def opened(_: Settings) -> AsyncIterator[Archive]:
        yield Archive(store, "p")

    return opened


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({"FORGE_DATA_DIR": str(tmp_path / "data"), "FORGE_CACHE_DIR": str(tmp_path / "cache")})


def wal_bytes(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


def content(path: str) -> bytes:
    return Path(path).read_bytes()


def held(path: Path) -> set[str]:
    with closing(LocalCopy(path, "image")) as copy:
        return {digest.hex() for digest in copy.holds([bytes.fromhex(one) for one in HASHES])}


async def test_a_missing_copy_is_made_and_a_current_one_costs_next_to_nothing(settings: Settings) -> None:
    """G29, G31: what was made equals what the records say, and nothing is fetched twice."""
    store, path = CountingStore(), settings.vector_hydrated_db
    end = await archived(store, history(*HASHES[:2]))

    made = await hydrate(settings, path, opening(store))
    first = Counter(store.asked)
    again = await hydrate(settings, path, opening(store))

    assert (made.state, made.position) == (State.FETCHED, str(end.position))
    assert again == Hydrated(State.CURRENT, made.position, made.time)
    assert store.asked - first == Counter(json=1)
    assert held(path) == set(HASHES[:2])
    assert {file.name for file in path.parent.iterdir()} == {path.name}


async def test_a_copy_that_is_behind_is_brought_on_by_what_is_missing(settings: Settings, tmp_path: Path) -> None:
    """G31: only the segments behind it are read, and it is equal to one that was made anew."""
    store, path = CountingStore(), settings.vector_hydrated_db
    log = history(*HASHES)
    await archived(store, log[:6])
    await hydrate(settings, path, opening(store))
    end = await archived(store, log)
    store.asked.clear()

    on = await hydrate(settings, path, opening(store))

    assert (on.state, on.position) == (State.CAUGHT_UP, str(end.position))
    assert store.asked["seg"] == 3
    assert held(path) == set(HASHES)
    await hydrate(settings, tmp_path / "anew.db", opening(store))
    assert digest_of(path) == digest_of(tmp_path / "anew.db")


@pytest.mark.parametrize("at", [0, 4096])
async def test_a_damaged_copy_is_kept_aside_and_made_anew(settings: Settings, at: int) -> None:
    """G29: it is checked before it is used, and what was there is still there under another name."""
    store, path = CountingStore(), settings.vector_hydrated_db
    await archived(store, history(*HASHES[:2]))
    await hydrate(settings, path, opening(store))
    whole = path.read_bytes()
    damaged = whole[:at] + b"\xff" * 4096 + whole[at + 4096 :]
    path.write_bytes(damaged)
    assert (await as_it_is(path)).state is State.NONE

    mended = await hydrate(settings, path, opening(store))

    assert mended.state is State.FETCHED
    assert content(mended.aside) == damaged
    assert held(path) == set(HASHES[:2])
    assert "kept as" in lines(mended, path, 0)[0]


@pytest.mark.parametrize("files", [1, 2, 3])
async def test_a_copy_of_another_history_is_made_anew(settings: Settings, files: int) -> None:
    """G29: shorter, as long, or longer than the history that is archived."""
    other, store, path = CountingStore(), CountingStore(), settings.vector_hydrated_db
    await archived(other, history(*HASHES[:files], model="other"))
    await archived(store, history(*HASHES[2:]))
    await hydrate(settings, path, opening(other))

    assert (await hydrate(settings, path, opening(store))).state is State.FETCHED

    assert held(path) == set(HASHES[2:])


async def test_while_the_object_store_is_away_the_copy_is_used_as_it_is(settings: Settings) -> None:
    """G31; spec 8, assertion 23: the message says which, and how old it is."""
    store, path = CountingStore(), settings.vector_hydrated_db
    log = history(*HASHES)
    store.away = "json"
    nothing = await hydrate(settings, path, opening(store))
    store.away = ""
    await archived(store, log[:6])
    made = await hydrate(settings, path, opening(store))
    await archived(store, log)
    store.away = "-00000000000000000012.seg"

    stale = await hydrate(settings, path, opening(store))

    assert (nothing.state, "does not answer" in nothing.why) == (State.NONE, True)
    (without,) = lines(nothing, path, 0)
    assert without.endswith("continuing without hydrated precheck DB")
    assert stale.state is State.STALE
    assert made.position <= stale.position
    (using,) = lines(stale, path, 0)
    assert f"using existing local hydrated DB {path}, at {stale.position}, newest entry" in using
    assert held(path) >= set(HASHES[:2])
    store.away = ""
    assert (await hydrate(settings, path, opening(store))).state is State.CAUGHT_UP


async def test_a_copy_that_somebody_reads_is_never_replaced(settings: Settings) -> None:
    """G29: no file is renamed over one with a live WAL; a second ingest keeps away from the first."""
    other, store, path = CountingStore(), CountingStore(), settings.vector_hydrated_db
    log = history(*HASHES[:2], model="other")
    for known in (2, 3):  # the second time it gets a WAL
        await archived(other, log[:known])
        await hydrate(settings, path, opening(other))
    await archived(other, log)
    await archived(store, history(*HASHES[2:]))
    with closing(connect(path, readonly=True)) as reader:
        for _ in reader.execute("BEGIN; SELECT count(*) FROM embedding"):
            pass
        on = await hydrate(settings, path, opening(other))
        assert (on.state, wal_bytes(path) > 0) == (State.CAUGHT_UP, True)

        busy = await hydrate(settings, path, opening(store))

        assert (busy.state, busy.position) == (State.STALE, on.position)
        assert held(path) == set(HASHES[:2])
    assert (await hydrate(settings, path, opening(store))).state is State.FETCHED
    assert held(path) == set(HASHES[2:])


async def test_what_is_no_copy_of_ours_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    """G29: a table of hashes that somebody made, and the database of the node, which has its writer."""
    store = CountingStore()
    await archived(store, history(*HASHES[:1]))
    table = tmp_path / "mine.db"
    with closing(apsw.Connection(str(table))) as db:
        db.execute("CREATE TABLE image_embeddings (hash TEXT PRIMARY KEY)")
    before = table.read_bytes()

    assert (await hydrate(settings, table, opening(store))).state is State.FOREIGN
    await hydrate(settings, settings.vector_embed_db, opening(store))
    assert (await hydrate(settings, settings.vector_embed_db, opening(store))).state is State.FOREIGN

    assert table.read_bytes() == before


async def test_a_folder_is_told_as_what_it_is(settings: Settings, tmp_path: Path) -> None:
    """And nothing is left in it or beside it."""
    folder = tmp_path / "copies"
    folder.mkdir()
    before = sorted(os.listdir(tmp_path))

    for found in (await as_it_is(folder), await hydrate(settings, folder, opening(MemoryStore()))):
        assert found.state is State.NONE
        assert found.why == f"{folder} is a folder: name a file, such as {folder / 'embeddings.db'}"
    assert sorted(os.listdir(tmp_path)) == before
    assert not os.listdir(folder)


async def test_a_place_that_cannot_be_written_keeps_no_ingest_from_running(settings: Settings, tmp_path: Path) -> None:
    """Spec 6.8: an unwritable directory is told and passed over."""
    (tmp_path / "file").touch()
    store = CountingStore()
    await archived(store, history(*HASHES[:1]))

    refused = await hydrate(settings, tmp_path / "file" / "copy.db", opening(store))

    assert (refused.state, bool(refused.why)) == (State.NONE, True)


def test_the_copy_knows_hashes_by_kind_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    """Spec 8, assertion 24."""
    with pytest.raises(UnusableCopy):
        LocalCopy(tmp_path / "none.db", "image")
