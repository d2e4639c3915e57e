"""Clones: parts that, taken one after the other, make a document with the same content."""

import random
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from projectors.difference import first_difference
from projectors.digest import digest
from projectors.document.past.cloning import Part, decide_copy, parts_of, read_progress
from projectors.document.replay import apply_steps, as_recorded, note_progress
from schemas.document import ChangesetStep, ContentCopied, CopyContent
from schemas.problems import Refusal
from tests.documents import new_document, scribble

SEEDS = range(20)


def _source(path: Path, seed: int, times: int = 200) -> None:
    with closing(new_document(path)) as db:
        scribble(db, random.Random(seed), times)


def _command(part: Part) -> CopyContent:
    return CopyContent(
        source="test", source_position="1.5", part=part.number, last=part.last, steps=part.steps, tables=part.tables
    )


def _take(db: apsw.Connection, part: Part, replica: apsw.Connection | None = None) -> int:
    """Have a part decided, and folded into a replica if there is one; return how many facts that made."""
    with db:
        decision = decide_copy(db, _command(part))
    for fact in decision.facts if replica else ():
        assert replica is not None
        assert isinstance(fact, ContentCopied)
        with replica, as_recorded(replica):
            apply_steps(replica, fact.steps)
            note_progress(replica, fact)
    return len(decision.facts)


def _content(path: Path) -> str:
    with closing(apsw.Connection(str(path))) as db:
        _forget_progress(db)
        return digest(db)


def _forget_progress(db: apsw.Connection) -> None:
    db.execute("UPDATE _forge_document SET source = NULL, source_position = NULL, next_part = 0, copied = 0")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_clone_has_the_content_of_its_source_however_it_is_cut(tmp_path: Path, seed: int) -> None:
    """PR2: schema, rows, rowids, counters and settings are the same, whatever the size of the parts."""
    print("seed", seed)
    source, target = tmp_path / "source.db", tmp_path / "target.db"
    _source(source, seed)
    with closing(new_document(target, "")) as db, closing(new_document(":memory:", "")) as replica:
        for part in parts_of(source, part_bytes=random.Random(seed).choice([100, 1000, 1 << 20])):
            assert _take(db, part, replica) == 1
        assert read_progress(db).whole
        assert first_difference(db, replica) is None
        _forget_progress(db)
        with closing(apsw.Connection(str(source))) as original:
            assert first_difference(original, db) is None
            query = "SELECT rowid, * FROM pet ORDER BY rowid"
            assert db.execute(query).fetchall() == original.execute(query).fetchall()
    assert _content(target) == _content(source)


def test_a_clone_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    """PR5: parts made again are the same parts; one that was taken is passed over."""
    source, target = tmp_path / "source.db", tmp_path / "target.db"
    _source(source, 3)
    count = len(list(parts_of(source, part_bytes=200)))
    assert count > 10
    for stop in range(1, count + 1):
        with closing(apsw.Connection(str(target)) if target.exists() else new_document(target, "")) as db:
            begun = read_progress(db).parts
            for part in parts_of(source, max(0, begun - 1), part_bytes=200):
                if part.number >= stop:
                    break
                assert _take(db, part) == (part.number >= begun)
    assert _content(target) == _content(source)


def test_a_text_index_can_be_searched_and_written_in_a_clone(tmp_path: Path) -> None:
    """The connection that took the parts goes on writing, and its index stays sound."""
    source = tmp_path / "source.db"
    with closing(new_document(source)) as db:
        db.execute("INSERT INTO note VALUES ('one', 'alpha'), ('two', 'beta')")
    with closing(new_document(tmp_path / "target.db", "")) as db:
        for part in parts_of(source):
            _take(db, part)
            if part.number == 0:
                db.execute("SELECT * FROM note('alpha')").fetchall()
        db.execute("INSERT INTO note VALUES ('three', 'alpha')")
        assert db.execute("SELECT title FROM note('alpha') ORDER BY rowid").fetchall() == [("one",), ("three",)]
        db.execute("INSERT INTO note(note) VALUES ('integrity-check')")


def test_parts_of_another_source_are_refused(tmp_path: Path) -> None:
    """A half-finished clone is never mixed with something else, and a document with a history is none."""
    source = tmp_path / "source.db"
    _source(source, 1)
    first, second, *_ = parts_of(source, part_bytes=1000)
    with closing(new_document(tmp_path / "target.db", "")) as db:
        _take(db, first)
        other = _command(second).model_copy(update={"source_position": "1.6"})
        with pytest.raises(Refusal, match=r"begun as a clone of test at 1\.5"):
            decide_copy(db, other)
        with pytest.raises(Refusal, match="came before"):
            decide_copy(db, _command(second).model_copy(update={"part": 2}))
    with (
        closing(new_document(tmp_path / "used.db", "", index=4)) as db,
        pytest.raises(Refusal, match="history of its own"),
    ):
        decide_copy(db, _command(first))


def test_a_part_is_bounded_by_its_size_or_one_row(tmp_path: Path) -> None:
    """PR7: a large table is cut; a row larger than a part is a part of its own."""
    source = tmp_path / "source.db"
    with closing(new_document(source, "CREATE TABLE big (id INTEGER PRIMARY KEY, data)")) as db:
        db.executemany("INSERT INTO big VALUES (?, randomblob(10000))", [(n,) for n in range(1, 101)])
        db.execute("INSERT INTO big VALUES (1000, randomblob(500000))")
    sizes = [
        sum(len(step.data) for step in part.steps if isinstance(step, ChangesetStep))
        for part in parts_of(source, part_bytes=100_000)
    ]
    assert sum(size > 100_000 for size in sizes) == 1
    assert 12 <= len(sizes) <= 16
