"""A replica's file: made from a snapshot, kept by chunks, and never made from anything else."""

import asyncio
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from forge.client.errors import ForgeError, UnexpectedAnswer
from forge.replica.errors import Diverged
from forge.replica.file import ReplicaFile
from forge.replica.follower import Follower
from forge.replica.status import Status
from forge.replica.verify import verify
from schemas.ids import Position
from tests.document_source import Source, digest_of, served
from tests.replicas import caught_up, flip, following, notes


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    with closing(notes(tmp_path)) as document:
        yield document


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "copy.db"


async def test_a_replica_holds_what_the_document_holds(source: Source, file: Path) -> None:
    """K2.4, K3.3, K3.5, PR2: made from a snapshot without disturbing the writer, then by the same fold."""
    async with served(source) as (_, transport), following(transport, file) as follower:
        for number in range(40):
            position = source.run(("INSERT INTO note (body) VALUES (?)", [f"more {number}"]))
            await follower.catch_up()
            assert follower.status.position == position
        source.run("ALTER TABLE note ADD COLUMN at TEXT DEFAULT 'never'", "UPDATE note SET at = 'now' WHERE id < 9")
        await follower.catch_up()

        assert await follower.digest() == source.digest()
        assert follower.status.state == "live"
        assert (await verify(follower, transport)).equal


async def test_a_replica_goes_on_where_it_was_closed(source: Source, file: Path) -> None:
    """K2.5: no second snapshot, and small chunks lead to the same content as one large one."""
    async with served(source) as (peer, transport):
        await caught_up(transport, file)
        for number in range(50):
            source.run(("INSERT INTO note (body) VALUES (?)", [f"later {number}"]))
        peer.chunk_bytes = 1
        await caught_up(transport, file)

        assert len(peer.snapshot_ranges) == 1
        assert peer.wal_requests >= 50
    assert [path.name for path in file.parent.glob("copy.db*")] == ["copy.db"]
    assert digest_of(file) == source.digest()


async def test_records_that_come_again_change_nothing(source: Source, file: Path) -> None:
    """K2.6, PR5: redelivery of the last records, in any portions, leaves content and position as they are."""
    async with served(source) as (_, transport):
        await caught_up(transport, file)
    before, number = digest_of(file), random.Random(3)
    copy = ReplicaFile.open(file, "notes")
    try:
        for _ in range(20):
            first = number.randrange(len(source.entries))
            copy.fold(source.entries[first : first + number.randrange(1, 5)])
            assert copy.cursor.position == source.head
    finally:
        copy.close()
    assert digest_of(file) == before == source.digest()


async def test_any_sqlite_library_reads_the_file_meanwhile(source: Source, file: Path) -> None:
    """The file is plain SQLite in WAL mode: readers see whole commits and hold nobody up."""
    async with served(source) as (_, transport), following(transport, file) as follower:
        await follower.catch_up()
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as reader:
            for number in range(20):
                source.run(("INSERT INTO note (body) VALUES (?)", [f"more {number}"]))
                await follower.catch_up()
                notes, audits = reader.execute(
                    "SELECT (SELECT count(*) FROM note), (SELECT count(*) FROM audit)"
                ).fetchone()
                assert notes == audits == 5 + number
            assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def spoiled_once(damage: list[Callable[[bytes], bytes]], raw: bytes) -> bytes:
    return damage.pop()(raw) if damage else raw


async def test_a_damaged_chunk_is_asked_for_again(source: Source, file: Path) -> None:
    """K2.2: one flipped bit anywhere is noticed; what then comes whole is used."""
    number = random.Random(7)
    async with served(source) as (peer, transport), following(transport, file) as follower:
        for _ in range(20):
            source.run(("INSERT INTO note (body) VALUES (?)", ["x" * 300]))
            damage = [flip(number)]
            peer.spoil_chunk = partial(spoiled_once, damage)
            await follower.catch_up()
            assert not damage
            assert await follower.digest() == source.digest()
        assert follower.status.reseeds == 0


async def test_chunks_that_stay_damaged_are_never_folded(source: Source, file: Path) -> None:
    """K2.2: every bit of a chunk is covered."""
    number = random.Random(11)
    async with served(source) as (peer, transport), following(transport, file) as follower:
        await follower.catch_up()
        before = await follower.digest()
        source.run("INSERT INTO note (body) VALUES ('one more')")
        for _ in range(30):
            damage = flip(number)
            peer.spoil_chunk = damage
            with pytest.raises(UnexpectedAnswer, match="damaged"):
                await follower.catch_up()
        assert await follower.digest() == before


async def test_a_replica_that_was_away_too_long_takes_a_new_copy(source: Source, file: Path) -> None:
    """K4.5, K3.3: 410 leads to a new copy by itself; the old one is kept beside it."""
    heard: list[Status] = []
    async with served(source) as (peer, transport):
        await caught_up(transport, file)
        before = digest_of(file)
        for number in range(5):
            source.run(("INSERT INTO note (body) VALUES (?)", [f"later {number}"]))
        peer.floor = source.head.index - 1
        async with following(transport, file, heard=heard) as follower:
            await follower.catch_up()
            assert follower.status.reseeds == 1
            assert await follower.digest() == source.digest()
    assert digest_of(file.with_name("copy.db.diverged-1.5")) == before
    states = [status.state for status in heard]
    assert states.index("needs_reseed") < states.index("live")


async def test_a_copy_with_another_history_is_replaced_and_kept(source: Source, file: Path, tmp_path: Path) -> None:
    """K3.4: the node has another record where this file stands."""
    async with served(source) as (_, transport):
        await caught_up(transport, file)
    lost = digest_of(file)
    other = Source(tmp_path / "restored")
    for number in range(8):
        other.run(f"CREATE TABLE t{number} (a)")
    try:
        async with served(other) as (_, transport):
            follower = await caught_up(transport, file)
        assert follower.status.reseeds == 1
        assert digest_of(file) == other.digest()
    finally:
        other.close()
    assert digest_of(file.with_name("copy.db.diverged-1.5")) == lost


async def test_a_copy_that_somebody_wrote_is_found_and_replaced(source: Source, file: Path) -> None:
    """PR2: a change that does not fit is divergence, never resolved in place."""
    async with served(source) as (_, transport):
        await caught_up(transport, file)
        with closing(sqlite3.connect(file)) as writer, writer:
            writer.execute("DROP TRIGGER seen")
            writer.execute("INSERT INTO note VALUES (5, 'mine')")
        async with following(transport, file) as follower:
            assert not (await verify(follower, transport)).equal
        source.run("INSERT INTO note (body) VALUES ('theirs')")
        follower = await caught_up(transport, file)
        assert follower.status.reseeds == 1
    assert digest_of(file) == source.digest()


async def test_a_node_whose_snapshot_leads_nowhere_is_not_asked_for_ever(source: Source, file: Path) -> None:
    async with served(source) as (peer, transport):
        peer.floor = source.head.index + 1
        with pytest.raises(Diverged):
            await caught_up(transport, file)
        assert len(peer.snapshot_ranges) == 1


async def test_a_deleted_document_is_not_a_reason_for_a_new_copy(source: Source, file: Path) -> None:
    async with served(source) as (peer, transport):
        await caught_up(transport, file)
        peer.deleted = True
        with pytest.raises(ForgeError) as gone:
            await caught_up(transport, file)
        assert gone.value.status == 410
    assert digest_of(file) == source.digest()


async def test_catching_up_can_stop_at_a_position(source: Source, file: Path) -> None:
    """K3.5: equal content at any position, not only at the end."""
    async with served(source) as (_, transport), following(transport, file) as follower:
        digests = {}
        for number in range(12):
            position = source.run(("INSERT INTO note (body) VALUES (?)", [f"later {number}"]))
            digests[position] = source.digest()
        for position in list(digests)[2::3]:
            await follower.catch_up(until=position)
            assert follower.status.position == position
            assert await follower.digest() == digests[position]


async def test_a_follower_waits_for_a_node_that_is_away(source: Source, file: Path) -> None:
    """K4.5: bootstrapping, catching_up, live, stalled, live again with what was missed."""
    states: list[str] = []
    changed = asyncio.Event()

    def heard(status: Status) -> None:
        states.extend([status.state] if states[-1:] != [status.state] else [])
        changed.set()

    async def until(wanted: list[str], position: Position) -> None:
        async with asyncio.timeout(60):
            while states != wanted or follower.status.position != position:
                changed.clear()
                await changed.wait()

    async with served(source) as (peer, transport):
        follower = Follower(transport, "notes", file, heard=heard)
        await follower.open()
        task = asyncio.create_task(follower.follow())
        await until(["bootstrapping", "catching_up", "live"], source.head)
        source.run("INSERT INTO note (body) VALUES ('while it is away')")
        peer.away = 20
        await until(["bootstrapping", "catching_up", "live", "stalled", "live"], source.head)
        task.cancel()
        await asyncio.wait({task})
        assert await follower.digest() == source.digest()
        await follower.close()


def test_a_position_says_how_far_behind_a_replica_is() -> None:
    assert Status("live", Position(1, 3), Position(1, 10)).lag_records == 7
    assert Status("live", Position(1, 3), Position(2, 10)).lag_records == 7, "indexes go on over epochs"
    assert Status("bootstrapping").lag_records is None
