"""Time travel: every position of a history can be read again, from the log alone, within a bound on disk."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import apsw
import pytest
import pytest_asyncio
from ulid import ULID

from events.log import Log
from forge.stack.nats import NatsServer
from projectors.document.domain import document_domain, document_partition, document_path
from projectors.document.past.copies import Copies
from projectors.document.past.travel import TimeTravel
from projectors.document.sql.bounds import SqlBounds
from projectors.domain import Domain
from projectors.partition import Partition
from projectors.rebuild import digest_of
from schemas.document import RunSql, Statement
from schemas.ids import START, Position
from schemas.instants import now
from schemas.problems import Refusal
from tests.notes import opened_log, opened_partition

ALL = ("read", "write", "admin")
SCRIPT = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT, at DEFAULT (random()))",
    "CREATE VIRTUAL TABLE f USING fts5(body)",
    "CREATE TRIGGER filled AFTER INSERT ON t BEGIN INSERT INTO f (rowid, body) VALUES (new.id, new.body); END",
    "CREATE TABLE w (a TEXT PRIMARY KEY, b) WITHOUT ROWID",
)
CHANGES = (
    "INSERT INTO t (body) VALUES ('word' || abs(random() % 50))",
    "UPDATE t SET body = body || 'x' WHERE id = abs(random() % 20)",
    "DELETE FROM t WHERE id = abs(random() % 20)",
    "INSERT OR REPLACE INTO w (a, b) VALUES ('k' || abs(random() % 9), hex(randomblob(20)))",
    "CREATE TABLE IF NOT EXISTS later AS SELECT * FROM t",
    "CREATE INDEX IF NOT EXISTS by_body ON t (body) WHERE id > 3",
    "DROP INDEX IF EXISTS by_body",
)
ALTERED = "ALTER TABLE w ADD COLUMN c DEFAULT 'none'"


class Document:
    """A document whose digest at every position is known."""

    def __init__(self, db_id: str, log: Log, partition: Partition, domain: Domain, directory: Path) -> None:
        self.db_id = db_id
        self.log = log
        self.domain = domain
        self.digests: dict[Position, str] = {}
        self._partition = partition
        self._path = document_path(directory, db_id)

    async def run(self, *statements: str) -> Position:
        """Commit statements, and remember what the document then is."""
        command = RunSql(statements=tuple(Statement(sql=sql) for sql in statements), classes=ALL)
        answer = await self._partition.submit(command, principal="root")
        self.digests[answer.position] = await asyncio.to_thread(digest_of, self._path)
        return answer.position

    async def fill(self, changes: int, seed: int) -> None:
        """Make the tables and change them at random."""
        print("seed", seed)
        rng = random.Random(seed)
        for sql in SCRIPT:
            await self.run(sql)
        for number in range(changes):
            await self.run(ALTERED if number == changes // 2 else rng.choice(CHANGES))


@pytest_asyncio.fixture
async def document(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Document]:
    """Keep one document open."""
    db_id = f"travel-{str(ULID()).lower()}"
    domain = document_domain(tmp_path / "docs", SqlBounds())
    async with (
        opened_log(nats_server) as event_log,
        opened_partition(event_log, document_partition(db_id), domain) as partition,
    ):
        await partition.ready(20)
        yield Document(db_id, event_log, partition, domain, tmp_path / "docs")


@pytest_asyncio.fixture
async def closing_at_end() -> AsyncIterator[AsyncExitStack]:
    """Close at the end of the test what it opened."""
    async with AsyncExitStack() as stack:
        yield stack


def _travel(document: Document, directory: Path, stack: AsyncExitStack, **options: Any) -> TimeTravel:
    options = {"bytes_max": 1 << 30, **options}
    travel = TimeTravel(document.log.reader, document.domain, directory, **options)
    stack.push_async_callback(travel.close)
    return travel


async def _digest_at(travel: TimeTravel, document: Document, moment: Position | str) -> tuple[Position, str]:
    async with travel.at(document.db_id, moment) as copy:
        return copy.moment.position, await asyncio.to_thread(digest_of, copy.path)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_position_reads_as_it_was(
    document: Document, tmp_path: Path, closing_at_end: AsyncExitStack, seed: int
) -> None:
    """PR2, PR4, K3.5: from history alone, in any order, on top of whatever copy is there."""
    await document.fill(40, seed)
    travel = _travel(document, tmp_path / "cache", closing_at_end, keep_every_records=7)
    positions = list(document.digests)
    random.Random(seed).shuffle(positions)
    for position in positions:
        assert await _digest_at(travel, document, position) == (position, document.digests[position])


async def test_the_past_has_no_rows_before_the_first_record(
    document: Document, tmp_path: Path, closing_at_end: AsyncExitStack
) -> None:
    """Before the first record there is the empty document, by position and by time."""
    before = now()
    await document.run("CREATE TABLE t (a)")
    travel = _travel(document, tmp_path / "cache", closing_at_end)
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
    travel = _travel(document, tmp_path / "cache", closing_at_end)
    for _ in range(5):
        position, instant = await document.run("INSERT INTO t VALUES (1)"), now()
        assert await _digest_at(travel, document, instant) == (position, document.digests[position])


async def test_the_future_and_other_histories_are_refused(
    document: Document, tmp_path: Path, closing_at_end: AsyncExitStack
) -> None:
    """400 for what is not written yet, 409 for an epoch that never was."""
    await document.run("CREATE TABLE t (a)")
    travel = _travel(document, tmp_path / "cache", closing_at_end)
    for moment, status in ((Position(1, 9), 400), ("2999-01-01T00:00:00.000000Z", 400), (Position(7, 1), 409)):
        with pytest.raises(Refusal) as raised:
            await _digest_at(travel, document, moment)
        assert raised.value.problem.status == status
    assert travel.copies.size_bytes == 0


async def test_callers_of_one_position_share_one_fold(
    document: Document, tmp_path: Path, closing_at_end: AsyncExitStack
) -> None:
    """PR7: a hundred at once make one copy, also if the first one goes away."""
    await document.fill(5, 1)
    travel = _travel(document, tmp_path / "cache", closing_at_end)
    position = max(document.digests)
    first = asyncio.create_task(_digest_at(travel, document, position))
    others = [asyncio.create_task(_digest_at(travel, document, position)) for _ in range(100)]
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
    travel = _travel(document, tmp_path / "cache", closing_at_end, making_max=1)
    asked = [_digest_at(travel, document, position) for position in document.digests]
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
    measuring = _travel(document, tmp_path / "measured", closing_at_end)
    async with measuring.at(document.db_id, positions[-1]) as copy:
        bound = copy.size_bytes * 4
    travel = _travel(document, tmp_path / "cache", closing_at_end, bytes_max=bound, keep_every_records=5)
    async with travel.at(document.db_id, positions[0]) as held:
        for position in positions:
            assert await _digest_at(travel, document, position) == (position, document.digests[position])
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
    travel = _travel(document, tmp_path / "cache", closing_at_end)
    await _digest_at(travel, document, position)
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
    travel = _travel(document, tmp_path / "cache", closing_at_end)
    first, last = sorted(document.digests)[3], max(document.digests)
    async with travel.at(document.db_id, first) as copy:
        size = copy.size_bytes
    copy.path.write_bytes(random.Random(1).randbytes(size))
    assert await _digest_at(travel, document, last) == (last, document.digests[last])
