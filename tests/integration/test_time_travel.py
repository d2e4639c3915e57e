"""Time travel: every position of a history can be read again, from the log alone, within a bound on disk."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from forge.stack.nats import NatsServer
from projectors.document.past.copies import Copies
from projectors.rebuild import digest_of
from schemas.ids import START, Position
from schemas.instants import now
from schemas.problems import Refusal
from tests.past_document import Document, digest_at, kept_document, travelling


@pytest_asyncio.fixture
async def document(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Document]:
    """Keep one document open."""
    async with kept_document(nats_server, tmp_path) as document:
        yield document


@pytest_asyncio.fixture
async def closing_at_end() -> AsyncIterator[AsyncExitStack]:
    """Close at the end of the test what it opened."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_position_reads_as_it_was(
    document: Document, tmp_path: Path, closing_at_end: AsyncExitStack, seed: int
) -> None:
    """PR2, PR4, K3.5: from history alone, in any order, on top of whatever copy is there."""
    await document.fill(40, seed)
    travel = travelling(document, tmp_path / "cache", closing_at_end, keep_every_records=7)
    positions = list(document.digests)
    random.Random(seed).shuffle(positions)
    for position in positions:
        assert await digest_at(travel, document, position) == (position, document.digests[position])


async def test_the_past_has_no_rows_before_the_first_record(
    document: Document, tmp_path: Path, closing_at_end: AsyncExitStack
) -> None:
    """Before the first record there is the empty document, by position and by time."""
    before = now()
    await document.run("CREATE TABLE t (a)")
    travel = travelling(document, tmp_path / "cache", closing_at_end)
    for moment in (START, before, "1999-01-01T00:00:00.000000Z"):
        async with travel.at(document.db_id, moment) as copy:
            assert copy.moment.position == START
            with closing(apsw.Connection(str(copy.path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
                assert not db.table_exists("main", "t")


async def test_an_instant_means_the_last_record_before_it(
    document: Document, tmp_path: Path, closing_at_end: AsyncExitStack
) -> None:
    """Deliverable 8 of documents: `?at=<time>`."""
    await document.run("CREATE TABLE t (a)")
    travel = travelling(document, tmp_path / "cache", closing_at_end)
    for _ in range(5):
        position, instant = await document.run("INSERT INTO t VALUES (1)"), now()
        assert await digest_at(travel, document, instant) == (position, document.digests[position])


async def test_the_future_and_other_histories_are_refused(
    document: Document, tmp_path: Path, closing_at_end: AsyncExitStack
) -> None:
    """400 for what is not written yet, 409 for an epoch that never was."""
    await document.run("CREATE TABLE t (a)")
    travel = travelling(document, tmp_path / "cache", closing_at_end)
    for moment, status in ((Position(1, 9), 400), ("2999-01-01T00:00:00.000000Z", 400), (Position(7, 1), 409)):
        with pytest.raises(Refusal) as raised:
            await digest_at(travel, document, moment)
        assert raised.value.problem.status == status
    assert travel.copies.size_bytes == 0


async def test_callers_of_one_position_share_one_fold(
    document: Document, tmp_path: Path, closing_at_end: AsyncExitStack
) -> None:
    """PR7: a hundred at once make one copy, also if the first one goes away."""
    await document.fill(5, 1)
    travel = travelling(document, tmp_path / "cache", closing_at_end)
    position = max(document.digests)
    first = asyncio.create_task(digest_at(travel, document, position))
    others = [asyncio.create_task(digest_at(travel, document, position)) for _ in range(100)]
    await asyncio.sleep(0)
    first.cancel()
    for found in await asyncio.gather(*others):
        assert found == (position, document.digests[position])
    assert len(list((tmp_path / "cache").glob("*/*"))) == 1


async def test_more_copies_than_the_node_can_make_are_refused(
    document: Document, tmp_path: Path, closing_at_end: AsyncExitStack
) -> None:
    """PR7: 503 past the bound, and what was begun is finished."""
    await document.fill(30, 5)
    travel = travelling(document, tmp_path / "cache", closing_at_end, making_max=1)
    asked = [digest_at(travel, document, position) for position in document.digests]
    found = await asyncio.gather(*asked, return_exceptions=True)
    refused = [one for one in found if isinstance(one, Refusal)]
    assert {one.problem.status for one in refused} == {503}
    assert {one for one in found if isinstance(one, tuple)} <= set(document.digests.items())
    assert len(refused) < len(found)


async def test_copies_take_no_more_space_than_they_may(
    document: Document, tmp_path: Path, closing_at_end: AsyncExitStack
) -> None:
    """PR7: the bound is kept by files on disk; what is in use stays, what was used least goes first."""
    await document.fill(20, 2)
    positions = sorted(document.digests)
    measuring = travelling(document, tmp_path / "measured", closing_at_end)
    async with measuring.at(document.db_id, positions[-1]) as copy:
        bound = copy.size_bytes * 4
    travel = travelling(document, tmp_path / "cache", closing_at_end, bytes_max=bound, keep_every_records=5)
    async with travel.at(document.db_id, positions[0]) as held:
        for position in positions:
            assert await digest_at(travel, document, position) == (position, document.digests[position])
            on_disk = [path.stat().st_size for path in (tmp_path / "cache").glob("*/*")]
            assert sum(on_disk) == travel.copies.size_bytes <= bound
        assert await asyncio.to_thread(digest_of, held.path) == document.digests[positions[0]]
    newest = travel.copies.nearest(document.db_id, positions[-1])
    assert newest is not None
    assert newest.position == positions[-1]


async def test_copies_outlive_a_restart_and_what_is_unfinished_does_not(
    document: Document, tmp_path: Path, closing_at_end: AsyncExitStack
) -> None:
    """Swept at start: half-made files, and those of another version of the fold."""
    await document.fill(5, 3)
    position = max(document.digests)
    travel = travelling(document, tmp_path / "cache", closing_at_end)
    await digest_at(travel, document, position)
    (made,) = (tmp_path / "cache").glob("*/*")
    made.with_suffix(".part").write_bytes(b"half")
    (made.parent / "strange.txt").write_bytes(b"")
    (spec,) = document.domain.projections("any")
    assert Copies(tmp_path / "cache", spec.version, bytes_max=1 << 30).nearest(document.db_id, position) is not None
    assert list(made.parent.iterdir()) == [made]
    assert Copies(tmp_path / "cache", "another", bytes_max=1 << 30).nearest(document.db_id, position) is None
    assert not made.exists()


async def test_a_damaged_copy_is_made_again(document: Document, tmp_path: Path, closing_at_end: AsyncExitStack) -> None:
    """PR4: copies are disposable, and history is not built on one that is not what it should be."""
    await document.fill(8, 4)
    travel = travelling(document, tmp_path / "cache", closing_at_end)
    first, last = sorted(document.digests)[3], max(document.digests)
    async with travel.at(document.db_id, first) as copy:
        size = copy.size_bytes
    copy.path.write_bytes(random.Random(1).randbytes(size))
    assert await digest_at(travel, document, last) == (last, document.digests[last])
