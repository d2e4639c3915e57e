"""Which writes are decided on the event loop, and what becomes of one that was expected to be quick and is not."""

from typing import Any, cast

import apsw
import pytest

from projectors.batch import Batch
from projectors.command_queue import Pending
from projectors.document.decide import _refused
from projectors.document.quickness import RUNS
from projectors.domain import NotQuick
from schemas.document import RunSql, Statement
from schemas.problems import QUERY_TIMEOUT, Refusal
from tests.document_history import EVERYTHING, NOW, PARTITION, Document, new_document

INSERT = "INSERT INTO t (a) VALUES (?)"
TRIES_MAX = 50
FILL = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO t (a) SELECT i FROM n"


def command(sql: str, *args: Any) -> RunSql:
    return RunSql(statements=(Statement(sql=sql, args=list(args)),), classes=EVERYTHING)


def quickly(document: Document, *commands: RunSql) -> Batch:
    batch = Batch(document.domain, [document.projection], PARTITION, "node-a", lambda: NOW)
    try:
        batch.decide([Pending(one, "root", None, cast(Any, None)) for one in commands], quick=True)
    finally:
        batch.rollback()
    return batch


def test_a_statement_is_expected_to_be_quick_once_it_was_so_several_times() -> None:
    """One that was slow begins again, others are not concerned."""
    with new_document() as document:
        document.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
        expected = []
        for _ in range(RUNS + 1):
            expected.append(document.domain.is_quick(document.db, command(INSERT, 1)))
            document.decide(command(INSERT, 1))

        assert expected == [False] * RUNS + [True]
        assert not document.domain.is_quick(document.db, command("DELETE FROM t"))
        assert not document.domain.is_quick(
            document.db, RunSql(statements=(Statement(sql=INSERT, args=[1]),) * 2, classes=EVERYTHING)
        )


def test_what_is_decided_quickly_is_what_is_decided_in_a_thread() -> None:
    """PR2: the same record comes of it."""
    with new_document() as document:
        document.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
        batch = quickly(document, command(INSERT, 1), command(INSERT, 2))

        assert [
            outcome[1]["results"][0]["last_insert_id"] for outcome in batch.outcomes if isinstance(outcome, tuple)
        ] == [
            1,
            2,
        ]
        assert document.db.execute("SELECT count(*) FROM t").get == 0


def test_a_write_that_takes_too_long_is_given_up_with_nothing_left_behind() -> None:
    """P2.6: it is decided again in a thread, and its document keeps to threads for a while."""
    with new_document() as document:
        document.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
        for _ in range(RUNS):
            document.decide(command(FILL, 2))
        before = document.db.execute("SELECT count(*) FROM t").get
        assert document.domain.is_quick(document.db, command(FILL, 2))

        for _ in range(TRIES_MAX):
            with pytest.raises(NotQuick):
                quickly(document, command(FILL, 50_000_000))
            assert not document.db.in_transaction
            assert document.db.execute("SELECT count(*) FROM t").get == before
            if not document.domain.is_quick(document.db, command(FILL, 2)):
                break  # else a busy machine let it wait instead of run, which is not held against it

        assert not document.domain.is_quick(document.db, command(FILL, 2))
        document.decide(command(FILL, 2))
        assert document.db.execute("SELECT count(*) FROM t").get == before + 2


def test_what_is_interrupted_behind_its_statement_was_not_quick() -> None:
    """P2.6: it may come as late as that on a busy machine, and is no failure of the node."""
    with new_document() as document, pytest.raises(Refusal) as refused, _refused(document.db):
        raise apsw.InterruptError("interrupted")

    assert refused.value.problem.type == QUERY_TIMEOUT.uri
