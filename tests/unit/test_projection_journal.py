"""What is synced and when; and what the parts of a file that a power cut leaves are worth."""

import random
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from events.cursor import Cursor, Entry
from events.envelope import decode_events
from projectors.catch_up import FoldFailed, fold_group
from projectors.domain import ProjectionSpec
from projectors.projection import Projection, WrongProjection
from schemas.ids import START, PartitionId, Position
from tests.notes import NoteAdded, notes_domain, record_after

PARTITION = PartitionId("doc", "notes")
SEED = 20261120
RECORDS = 6
OFF, NORMAL = 0, 1


@pytest.fixture
def spec(tmp_path: Path) -> ProjectionSpec:
    return notes_domain(tmp_path).projections(PARTITION.key)[0]


def entries(count: int) -> list[Entry]:
    found: list[Entry] = []
    cursor = Cursor.start(PARTITION)
    for number in range(count):
        record = record_after(cursor, PARTITION, [NoteAdded(text=f"note {number}")])
        cursor = Cursor(record.position, record.hash, number + 1)
        found.append(Entry(record, cursor))
    return found


def fold(projection: Projection, *folded: Entry) -> None:
    for entry in folded:
        projection.fold(entry, decode_events(entry.record.json(), {NoteAdded.TYPE: NoteAdded}), remembers=True)


def synchronous(projection: Projection) -> int:
    return int(str(projection.db.pragma("synchronous")))


def test_only_the_beginning_of_a_wal_goes_without_syncs(spec: ProjectionSpec) -> None:
    """PR4: what is folded into the file was synced in the WAL before."""
    first, second, third = entries(3)
    new = Projection(spec, PARTITION)
    assert synchronous(new) == NORMAL  # making its tables has begun the WAL
    fold(new, first)
    beside = Projection(spec, PARTITION)
    assert synchronous(beside) == NORMAL  # there is a WAL already
    beside.close()
    new.close()

    again = Projection(spec, PARTITION)
    assert synchronous(again) == OFF
    fold(again, second)
    assert synchronous(again) == NORMAL
    again.close()
    again = Projection(spec, PARTITION)
    fold(again, third)
    assert (synchronous(again), again.cursor) == (NORMAL, third.cursor)
    again.close()


@pytest.mark.parametrize("main", ["empty", "first page", "zeros"])
def test_whatever_a_power_cut_leaves_of_a_new_file_is_a_beginning_or_refused(
    spec: ProjectionSpec, tmp_path: Path, main: str
) -> None:
    """PR1, PR4: rows and position agree, so that the rest comes from the log."""
    written = Projection(spec, PARTITION)
    fold(written, *entries(RECORDS))
    file, wal = spec.path.read_bytes(), Path(f"{spec.path}-wal").read_bytes()
    written.close()
    assert len(file) == 4096, "it holds nothing yet but the header"
    left = {"empty": b"", "first page": file, "zeros": bytes(len(file))}[main]
    chance = random.Random(SEED)
    reached: set[int] = set()

    for number, size in enumerate([0, len(wal), *(chance.randrange(len(wal)) for _ in range(40))]):
        path = tmp_path / f"cut-{number}.db"
        path.write_bytes(left)
        if size:
            Path(f"{path}-wal").write_bytes(wal[:size])
        try:
            found = Projection(spec, PARTITION, path)
        except (apsw.NotADBError, apsw.CorruptError, WrongProjection):
            continue  # it is made anew
        notes = [str(row[0]) for row in found.db.execute("SELECT text FROM note ORDER BY id")]
        assert notes == [f"note {n}" for n in range(found.cursor.position.index)], (SEED, size)
        assert str(found.db.pragma("integrity_check")) == "ok"
        reached.add(found.cursor.position.index)
        fold(found, *entries(RECORDS))
        found.close()

    if main == "first page":
        assert {0, RECORDS} <= reached
    elif main == "empty":
        assert reached == {0}, "SQLite removes the WAL of an empty file"


def test_nothing_guards_a_connection_that_only_folds(spec: ProjectionSpec, tmp_path: Path) -> None:
    guarded = replace(spec, prepare=_guard)
    deciding = Projection(guarded, PARTITION)
    folding = Projection(guarded, PARTITION, tmp_path / "f.db", decides=False)
    thrown_away = Projection(guarded, PARTITION, tmp_path / "t.db", durable=False)

    assert deciding.db.authorizer is not None
    assert folding.db.authorizer is None
    assert thrown_away.db.authorizer is None
    for projection in (deciding, folding, thrown_away):
        projection.close()


def test_of_a_group_that_cannot_be_folded_the_record_is_named(spec: ProjectionSpec, tmp_path: Path) -> None:
    """DESIGN 3.5: it stops the projection before its group, loudly."""
    group = entries(4)
    projection = Projection(spec, PARTITION)
    projection.db.execute(
        "CREATE TEMP TRIGGER refuse BEFORE INSERT ON note WHEN new.text = 'note 2' "
        "BEGIN SELECT raise(ABORT, 'as asked'); END"
    )

    with pytest.raises(FoldFailed, match=rf"record 1\.3 of .*\({group[2].record.id}\).*as asked"):
        fold_group(notes_domain(tmp_path), [projection], group)

    assert projection.cursor.position == START
    projection.db.execute("DROP TRIGGER refuse")
    fold_group(notes_domain(tmp_path), [projection], group[:2])
    fold_group(notes_domain(tmp_path), [projection], group)
    assert projection.cursor.position == Position(1, 4)
    assert projection.db.execute("SELECT count(*) FROM note").get == 4
    projection.close()


def _guard(db: apsw.Connection) -> None:
    db.authorizer = lambda *_: apsw.SQLITE_OK
