"""Time travel with an archive: the past far from any copy begins with a generation."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from events.archive import Archive
from events.objects.errors import StoreUnavailable
from events.objects.memory import MemoryStore
from events.objects.port import Object
from events.purge import purge
from events.seek import seek
from projectors.document.domain import document_partition
from schemas.ids import Position
from schemas.problems import Refusal
from tests.archives import PREFIX, archived_up_to, archiving
from tests.conftest import StartNats
from tests.generations import making
from tests.past_document import Document, digest_at, kept_document, travelling
from workers.generations.making import Result

NEAR = 5
CHANGES = 15


class Away(MemoryStore):
    """A store that can be told not to answer, and counts what it was asked for."""

    away = False
    asked = 0

    async def get(self, key: str) -> Object:
        """Return an object, or not."""
        self.asked += 1
        if self.away:
            raise StoreUnavailable("as asked")
        return await super().get(key)


@pytest.fixture
def store() -> Away:
    """Give an empty store."""
    return Away()


@pytest_asyncio.fixture
async def document(start_nats: StartNats, tmp_path: Path, store: Away) -> AsyncIterator[Document]:
    """Keep a document with a history, in the middle of which a generation stands."""
    async with kept_document(await start_nats(), tmp_path) as document:
        await document.fill(CHANGES, 8)
        await _copied(document, store, tmp_path)
        for number in range(CHANGES):
            await document.run(f"INSERT INTO t (body) VALUES ('later {number}')")
        await _archived(document, store)
        yield document


async def _archived(document: Document, store: MemoryStore) -> None:
    async with archiving(document.log, store, facts={"doc": document.domain.facts}):
        await archived_up_to(store, document_partition(document.db_id), max(document.digests))


async def _copied(document: Document, store: MemoryStore, folder: Path) -> None:
    await _archived(document, store)
    (spec,) = document.domain.projections(document.db_id)
    async with making(Archive(store, PREFIX), folder / "scratch") as maker:
        made = await maker.make(document_partition(document.db_id), spec)
    assert made.result is Result.MADE


def _generation(document: Document) -> Position:
    return sorted(document.digests)[-CHANGES - 1]


async def test_the_past_begins_with_a_generation_when_its_history_is_gone(
    document: Document, store: Away, tmp_path: Path
) -> None:
    """DESIGN 6: folds a generation forward; without one the same positions cannot be made."""
    at = _generation(document)
    cursor = await seek(document.log.reader, document_partition(document.db_id), at)
    await purge(document.log.admin, document_partition(document.db_id), below=cursor.sequence + 1)
    async with AsyncExitStack() as stack:
        archive = Archive(store, PREFIX)
        travel = travelling(document, tmp_path / "cache", stack, keep_every_records=NEAR, archive=archive)
        for position in [position for position in document.digests if position >= at]:
            assert await digest_at(travel, document, position) == (position, document.digests[position])
        plain = travelling(document, tmp_path / "plain", stack, keep_every_records=NEAR)
        with pytest.raises(Refusal) as raised:
            await digest_at(plain, document, max(document.digests))
        assert raised.value.problem.status == 503


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_position_reads_the_same_with_generations(
    document: Document, store: Away, tmp_path: Path, seed: int
) -> None:
    """PR2, PR4: before a generation and after it, in any order."""
    print("seed", seed)
    positions = list(document.digests)
    random.Random(seed).shuffle(positions)
    async with AsyncExitStack() as stack:
        archive = Archive(store, PREFIX)
        travel = travelling(document, tmp_path / "cache", stack, keep_every_records=NEAR, archive=archive)
        for position in positions:
            assert await digest_at(travel, document, position) == (position, document.digests[position])


@pytest.mark.parametrize("harm", ["away", "damaged"])
async def test_without_a_usable_generation_history_does(
    document: Document, store: Away, tmp_path: Path, harm: str
) -> None:
    """PR4, PR8: a store that is away or damaged costs time, and changes nothing that is read."""
    store.away = harm == "away"
    if harm == "damaged":
        pages = [key for key in store.objects if "/pages/" in key]
        assert pages
        for key in pages:
            store.objects[key] = Object(random.Random(1).randbytes(100), "damaged")
    asked = store.asked
    last = max(document.digests)
    async with AsyncExitStack() as stack:
        archive = Archive(store, PREFIX)
        travel = travelling(document, tmp_path / "cache", stack, keep_every_records=NEAR, archive=archive)
        assert await digest_at(travel, document, last) == (last, document.digests[last])
    assert store.asked > asked


async def test_what_is_near_asks_nothing_of_the_store(document: Document, store: Away, tmp_path: Path) -> None:
    """A few records are folded sooner than a generation is fetched."""
    asked = store.asked
    last = max(document.digests)
    async with AsyncExitStack() as stack:
        archive = Archive(store, PREFIX)
        travel = travelling(document, tmp_path / "cache", stack, archive=archive)
        assert await digest_at(travel, document, last) == (last, document.digests[last])
    assert store.asked == asked


async def test_a_history_that_begins_later_is_read_from_its_generation_on(
    start_nats: StartNats, tmp_path: Path, store: Away
) -> None:
    """G26, K0.4: what was before is refused with the first position that can be read; an absent store is said."""
    async with kept_document(await start_nats(), tmp_path) as document, AsyncExitStack() as stack:
        partition, archive = document_partition(document.db_id), Archive(store, PREFIX)
        await document.run("CREATE TABLE t (n)")
        for part in range(3):
            for number in range(3):
                await document.run(f"INSERT INTO t VALUES ({3 * part + number})")
            await (_copied(document, store, tmp_path) if part == 1 else _archived(document, store))
        *_, at = [position for position in document.digests if position.index <= 7]
        (first, *_) = [key async for key in archive.segments(partition, at) if key.last >= at.index]
        assert first.first == 5
        end = await seek(document.log.reader, partition, max(document.digests))
        await purge(document.log.admin, partition, below=end.sequence)
        async for key in archive.segments(partition, Position(1, 0)):
            if key.last < first.first:
                await store.delete(archive.key(str(key)))
        document.log.reader.archive = archive
        travel = travelling(document, tmp_path / "cache", stack, archive=archive)

        for position in document.digests:
            if position >= at:
                assert await digest_at(travel, document, position) == (position, document.digests[position])
                continue
            with pytest.raises(Refusal, match=f"from {at} on") as raised:
                await digest_at(travel, document, position)
            assert raised.value.problem.status == 410
        store.away = True
        elsewhere = travelling(document, tmp_path / "elsewhere", stack, archive=archive)
        with pytest.raises(Refusal) as away:
            await digest_at(elsewhere, document, max(document.digests))
        assert away.value.problem.status == 503
