"""Folding records into a document that is in use."""

from typing import Any

from projectors.catch_up import fold_group
from projectors.document.replay import apply_steps, as_recorded
from schemas.document import RowidsStep, RunSql, Statement
from tests.document_history import EVERYTHING, Document, content, new_document, rebuilt


def test_a_writer_that_folded_records_of_another_goes_on_with_its_full_text_index() -> None:
    """PR2, PR3: what FTS5 keeps in memory of its index does not see rows that were folded."""
    with new_document() as first, new_document() as second:
        first.sql("CREATE VIRTUAL TABLE f USING fts5 (x)", "INSERT INTO f VALUES ('one two')")
        fold_group(second.domain, [second.projection], first.entries)
        assert second.db.execute("SELECT count(*) FROM f WHERE f MATCH 'one'").get == 1  # the index is loaded
        for number in range(30):
            known = len(first.entries)
            first.sql(f"INSERT INTO f VALUES ('word{number} one')")
            fold_group(second.domain, [second.projection], first.entries[known:])

        second.entries = list(first.entries)
        second.sql("INSERT INTO f VALUES ('last one')")

        assert second.db.execute("SELECT count(*) FROM f WHERE f MATCH 'one'").get == 32
        assert second.db.execute("SELECT count(*) FROM f WHERE f MATCH 'word3'").get == 1
        second.db.execute("INSERT INTO f (f) VALUES ('integrity-check')")
        with rebuilt(second) as copy:
            assert content(second.db) == content(copy)


def test_a_write_that_changed_nothing_is_remembered_only_for_a_retry() -> None:
    """PR5: one who asks again and again for work that is not there must not fill the log."""
    with new_document() as document:
        document.sql("CREATE TABLE job (id INTEGER PRIMARY KEY, taken)")
        claim = RunSql(
            statements=(Statement(sql="UPDATE job SET taken = 1 WHERE taken IS NULL RETURNING id"),), classes=EVERYTHING
        )
        assert answer(document, claim)["rows_affected"] == 0
        assert len(document.entries) == 1
        assert answer(document, claim, "key")["rows_affected"] == 0
        assert len(document.entries) == 2
        document.sql("INSERT INTO job (id) VALUES (1)")

        assert answer(document, claim, "key")["rows_affected"] == 0
        assert answer(document, claim)["rows"] == [(1,)]


def test_rows_get_their_rowids_also_where_others_were_put_aside_for_a_moment() -> None:
    """PR2: negative rowids are rowids like others; two rows, each of which wants such a place, do not meet there."""
    with new_document() as document:
        document.sql("CREATE TABLE t (k TEXT PRIMARY KEY)", "INSERT INTO t VALUES ('a'), ('b'), ('c')")
        with as_recorded(document.db):
            apply_steps(document.db, [RowidsStep(table="t", rows=((-2, "a"), (-1, "b"), (1, "c")))])

        assert document.db.execute("SELECT rowid, k FROM t ORDER BY k").fetchall() == [(-2, "a"), (-1, "b"), (1, "c")]


def answer(document: Document, command: RunSql, command_id: str | None = None) -> Any:
    """Return what the only statement of a command answered."""
    (outcome,) = document.decide(command, command_id=command_id)
    assert isinstance(outcome, tuple), outcome
    return outcome[1]["results"][0]
