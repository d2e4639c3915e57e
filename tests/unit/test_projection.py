"""A projection's rows and its position move together, or not at all."""

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from events.cursor import Cursor, Entry
from events.envelope import Event, Receipt, decode_events
from projectors.domain import ProjectionSpec
from projectors.projection import (
    COMMANDS_KEPT_S,
    EPOCH_START,
    Projection,
    WrongProjection,
    connect,
    read_cursor,
    remove_database,
    schema_sql,
    schema_version,
)
from schemas.ids import START, PartitionId, Position
from schemas.instants import later
from tests.notes import TIME, NoteAdded, notes_domain, record_after

PARTITION = PartitionId("doc", "notes")


@pytest.fixture
def spec(tmp_path: Path) -> ProjectionSpec:
    return notes_domain(tmp_path).projections(PARTITION.key)[0]


@pytest.fixture
def projection(spec: ProjectionSpec) -> Iterator[Projection]:
    opened = Projection(spec, PARTITION)
    yield opened
    opened.close()


def entry_after(cursor: Cursor, *texts: str) -> tuple[Entry, list[Event]]:
    record = record_after(cursor, PARTITION, [NoteAdded(text=text) for text in texts])
    entry = Entry(record, Cursor(record.position, record.hash, cursor.sequence + 1))
    return entry, decode_events(record.json(), {NoteAdded.TYPE: NoteAdded})


def notes(projection: Projection) -> list[str]:
    return [str(row[0]) for row in projection.db.execute("SELECT text FROM note ORDER BY id")]


def test_a_new_projection_stands_before_the_first_record(projection: Projection) -> None:
    assert projection.cursor == Cursor.start(PARTITION)
    assert projection.cursor.position == START
    assert projection.time == EPOCH_START


def test_rows_and_position_are_there_after_opening_again(projection: Projection, spec: ProjectionSpec) -> None:
    """PR4: what a fold wrote, it wrote with its position."""
    entry, events = entry_after(projection.cursor, "one", "two")
    projection.fold(entry, events, remembers=True)

    again = Projection(spec, PARTITION)
    assert (again.cursor, again.time, notes(again)) == (entry.cursor, TIME, ["one", "two"])
    again.close()


def test_a_record_is_folded_once(projection: Projection) -> None:
    """PR5: the position on every fold."""
    entry, events = entry_after(projection.cursor, "one")
    for _ in range(3):
        projection.fold(entry, events, remembers=True)

    assert notes(projection) == ["one"]


def test_a_fold_that_fails_half_way_leaves_rows_position_and_time(projection: Projection) -> None:
    """PR4: in the file and in memory."""
    before = projection.cursor
    entry, events = entry_after(before, "one", "two")
    projection.db.execute(
        "CREATE TEMP TRIGGER refuse BEFORE INSERT ON note WHEN new.text = 'two' "
        "BEGIN SELECT raise(ABORT, 'as asked'); END"
    )

    with pytest.raises(apsw.ConstraintError):
        projection.fold(entry, events, remembers=True)

    assert notes(projection) == []
    assert (projection.cursor, projection.time) == (before, EPOCH_START)
    assert read_cursor(projection.db) == before
    projection.db.execute("DROP TRIGGER refuse")
    projection.fold(entry, events, remembers=True)
    assert notes(projection) == ["one", "two"]


def test_an_outer_transaction_that_fails_takes_the_position_back(projection: Projection) -> None:
    """PR4: records are folded in groups; all of a group is undone."""
    before = projection.cursor
    entry, events = entry_after(before, "one")

    def fold_and_fail() -> None:
        with projection.transaction():
            projection.fold(entry, events, remembers=True)
            assert projection.cursor == entry.cursor
            raise RuntimeError("as asked")

    with pytest.raises(RuntimeError):
        fold_and_fail()

    assert (projection.cursor, notes(projection)) == (before, [])


def test_a_record_without_events_moves_only_the_position(projection: Projection) -> None:
    entry, events = entry_after(projection.cursor)

    projection.fold(entry, events, remembers=True)

    assert projection.cursor.position == Position(1, 1)
    assert projection.time == EPOCH_START


def test_a_file_of_another_partition_or_version_is_refused(projection: Projection, spec: ProjectionSpec) -> None:
    """PR6: the message says which."""
    with pytest.raises(WrongProjection, match=r"a projection of forge\.log\.doc\.notes, not of forge\.log\.doc\.other"):
        Projection(spec, PartitionId("doc", "other"))
    newer = notes_domain(spec.path.parent, version="2").projections("notes")[0]
    with pytest.raises(WrongProjection, match="has version 1, this Forge needs 2"):
        Projection(newer, PARTITION)


def test_an_answer_is_remembered_with_its_position_and_forgotten_after_a_week(projection: Projection) -> None:
    """PR5, PR7: by the time of the events, so that every copy forgets the same."""
    receipt = Receipt("key", "print", {"notes": [1, None, "x"]})
    projection.remember(receipt, Position(1, 7), TIME)
    assert projection.remembered("key") == (Position(1, 7), receipt)
    assert projection.remembered("other") is None

    projection.remember(Receipt("b", "", None), Position(1, 8), later(TIME, COMMANDS_KEPT_S))
    assert projection.remembered("key") is not None
    projection.remember(Receipt("c", "", None), Position(1, 9), later(TIME, COMMANDS_KEPT_S + 1))
    assert projection.remembered("key") is None


def test_a_projection_that_does_not_decide_remembers_nothing(projection: Projection) -> None:
    entry, (event,) = entry_after(projection.cursor, "one")

    projection.fold(entry, [event._replace(receipt=Receipt("key", "print", 1))], remembers=False)

    assert projection.remembered("key") is None


def test_readers_see_only_what_was_committed(projection: Projection, spec: ProjectionSpec) -> None:
    """DESIGN 4: WAL; nobody waits for anybody."""
    reader = connect(spec.path, readonly=True)
    entry, events = entry_after(projection.cursor, "one")
    with projection.transaction():
        projection.fold(entry, events, remembers=True)
        assert reader.execute("SELECT count(*) FROM note").get == 0
    assert reader.execute("SELECT count(*) FROM note").get == 1
    assert read_cursor(reader) == entry.cursor
    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("DELETE FROM note")
    reader.close()


def test_the_version_changes_with_the_tables_and_with_the_fold() -> None:
    """It must show 3: either one means that the rows are folded anew."""
    queue = schema_sql("queue")
    versions = {schema_version(queue, 1), schema_version(queue, 2), schema_version(f"{queue} ", 1)}

    assert len(versions) == 3
    assert schema_version(queue, 1) == schema_version(queue, 1)


def test_a_database_is_removed_with_everything_that_belongs_to_it(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").touch()
    (tmp_path / "y.db").touch()

    remove_database(path)
    remove_database(path)

    assert [left.name for left in tmp_path.iterdir()] == ["y.db"]
