"""System tables of documents move on with Forge, each step an event of the document."""

import apsw
import pytest

from projectors.document.system import Migration
from schemas.problems import Refusal
from tests.document_history import content, new_document, rebuilt

FIRST = Migration(("CREATE TABLE messages (id INTEGER PRIMARY KEY, body)",))
SECOND = Migration(("ALTER TABLE messages ADD COLUMN topic", "CREATE INDEX by_topic ON messages (topic)"))
BROKEN = Migration(("CREATE TABLE leases (id)", "ALTER TABLE there_is_none ADD COLUMN x"))


def tables(db: apsw.Connection) -> set[str]:
    return {str(name) for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE name IN ('messages', 'leases')")}


def test_a_document_has_no_system_tables_until_something_needs_them() -> None:
    """P0.13: those that never use them stay small; naming one in SQL is using it, also in a view."""
    with new_document([FIRST]) as document:
        document.sql("CREATE TABLE t (a)", "CREATE VIEW v AS SELECT id FROM messages")
        assert tables(document.db) == set()
        with pytest.raises(Refusal, match="no such table: leases"):
            document.sql("SELECT * FROM leases")

        document.sql("INSERT INTO t VALUES (1)", "CREATE INDEX mine ON messages (body)")

        assert tables(document.db) == {"messages"}
        assert len(document.entries) == 2
        with rebuilt(document) as copy:
            assert content(copy) == content(document.db)


def test_a_document_of_an_older_forge_is_upgraded_by_its_next_command_in_one_record() -> None:
    """P0.13: and a replay from zero by whatever code gives the same file, since the record has the statements."""
    with new_document([FIRST]) as document:
        document.sql("CREATE TABLE t (a)", "CREATE INDEX mine ON messages (body)")
        document.upgrade(SECOND)
        document.sql("INSERT INTO t VALUES (1)")

        assert len(document.entries) == 2
        assert tables(document.db) == {"messages"}
        assert document.db.execute("SELECT count(topic) FROM messages").get == 0
        with rebuilt(document) as copy:
            assert content(copy) == content(document.db)


def test_an_upgrade_that_fails_half_way_leaves_the_old_version_usable() -> None:
    """P0.13: nothing of it is kept, in the file or in the log."""
    with new_document([FIRST]) as document:
        document.sql("CREATE TABLE t (a)", "CREATE INDEX mine ON messages (body)")
        known, before = document.migrations, content(document.db)
        document.upgrade(BROKEN)
        with pytest.raises(Exception, match="node's log"):
            document.sql("INSERT INTO t VALUES (1)")
        assert len(document.entries) == 1

        document.migrations = known
        document.upgrade()
        assert content(document.db) == before
        assert tables(document.db) == {"messages"}
        document.sql("INSERT INTO t VALUES (1)")


def test_a_document_of_a_newer_forge_is_not_written() -> None:
    """P0.13: its tables may mean something else by now; the refusal says what to run."""
    with new_document([FIRST, SECOND]) as document:
        document.sql("CREATE TABLE t (a)", "CREATE INDEX mine ON messages (body)")
        document.migrations = (FIRST,)
        document.upgrade()
        with pytest.raises(Refusal, match="newer Forge"):
            document.sql("INSERT INTO t VALUES (1)")
        assert len(document.entries) == 1
