"""What has a watch evaluated again: commits that touch what it reads, and no others."""

from pathlib import Path

import pytest

from forge.stack.nats import NatsServer
from tests.watching import new_db_id, new_watching

NOTE = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT, value)"
TAG = "CREATE TABLE tag (name TEXT PRIMARY KEY)"
COUNT = "SELECT count(*) AS n FROM note"


async def test_an_unrelated_write_costs_no_evaluation(nats_server: NatsServer, tmp_path: Path) -> None:
    """D.2: SQLite says what a query reads, through views and subqueries; the commit says what it touched."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE, TAG, "CREATE VIEW long AS SELECT * FROM note WHERE length(text) > 3")
        follower = watching.follow("SELECT count(*) FROM long WHERE id IN (SELECT max(id) FROM note)")
        await follower.next()
        for name in "abcde":
            unrelated = await watching.sql("INSERT INTO tag VALUES (?)", args=[name])
        await watching.settled()
        assert watching.evaluator.evaluated.count(follower.subscription.watch.statement.sql) == 1

        heartbeat = await follower.next(0.01)
        assert (heartbeat.event, heartbeat.position) == ("heartbeat", unrelated)

        await watching.sql("INSERT INTO note (text) VALUES ('long enough')")
        assert (await follower.next()).data["rows"] == [[1]]
        assert watching.evaluator.evaluated.count(follower.subscription.watch.statement.sql) == 2


async def test_changes_by_triggers_cascades_and_foreign_tables_reach_their_watches(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """D.2: a commit touches what it changed, not what its statements name."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(
            "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
            "CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent ON DELETE CASCADE)",
            "CREATE TABLE audit (what TEXT)",
            "CREATE TRIGGER child_gone AFTER DELETE ON child BEGIN INSERT INTO audit VALUES ('gone'); END",
            "INSERT INTO parent VALUES (1)",
            "INSERT INTO child VALUES (1, 1)",
        )
        children, audit = watching.follow("SELECT count(*) FROM child"), watching.follow("SELECT count(*) FROM audit")
        assert (await children.next()).data["rows"] == [[1]]
        assert (await audit.next()).data["rows"] == [[0]]

        await watching.sql("DELETE FROM parent")

        assert (await children.next()).data["rows"] == [[0]]
        assert (await audit.next()).data["rows"] == [[1]]


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("fts5(body)", "INSERT INTO found VALUES ('a word')"),
        ("fts5(body, content='note', content_rowid='id')", "INSERT INTO found (rowid, body) VALUES (1, 'word')"),
    ],
)
async def test_a_full_text_search_is_watched_through_the_tables_behind_it(
    nats_server: NatsServer, tmp_path: Path, table: str, change: str
) -> None:
    """D.2: a virtual table depends on its shadow tables, and on a content table elsewhere."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(
            "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)", TAG, f"CREATE VIRTUAL TABLE found USING {table}"
        )
        follower = watching.follow("SELECT count(*) FROM found WHERE found MATCH 'word'")
        assert (await follower.next()).data["rows"] == [[0]]

        await watching.sql(change)

        assert (await follower.next()).data["rows"] == [[1]]


async def test_content_that_lies_outside_of_a_full_text_table_is_watched_too(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """D.2: such a table reads its content from another one, with statements that it prepares only once."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(
            "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)",
            "CREATE VIRTUAL TABLE found USING fts5(body, content='note', content_rowid='id')",
            "INSERT INTO note VALUES (1, 'word')",
            "INSERT INTO found (rowid, body) VALUES (1, 'word')",
        )
        follower = watching.follow("SELECT body FROM found WHERE found MATCH 'word'")
        assert (await follower.next()).data["rows"] == [["word"]]
        for number in range(3):
            await watching.sql("UPDATE note SET body = ?", args=[f"changed {number}"])
            assert (await follower.next()).data["rows"] == [[f"changed {number}"]]


async def test_a_plain_full_text_table_costs_nothing_when_other_tables_change(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """D.2: also for virtual tables."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql("CREATE VIRTUAL TABLE found USING fts5(content)", "CREATE TABLE found_not (a)")
        follower = watching.follow("SELECT count(*) FROM found WHERE found MATCH 'word'")
        await follower.next()
        await watching.sql("INSERT INTO found_not VALUES (1)")
        await watching.settled()

        assert len([sql for sql in watching.evaluator.evaluated if "MATCH" in sql]) == 1


async def test_the_schema_and_the_state_of_the_file_are_watched_too(nats_server: NatsServer, tmp_path: Path) -> None:
    """D.2: unknown falls back to every commit; a change of the schema concerns every watch."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE)
        columns = watching.follow("SELECT name FROM pragma_table_info('note') ORDER BY cid")
        tables = watching.follow("SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE '\\_forge%' ESCAPE '\\'")
        version = watching.follow("PRAGMA user_version")
        rows = watching.follow("SELECT * FROM note")
        for follower in (columns, tables, version, rows):
            await follower.next()

        await watching.sql("PRAGMA user_version = 5")
        assert (await version.next()).data["rows"] == [[5]]

        await watching.sql("ALTER TABLE note ADD COLUMN more DEFAULT 3")
        assert (await columns.next()).data["rows"] == [["id"], ["text"], ["value"], ["more"]]
        assert (await rows.next()).data["columns"] == ["id", "text", "value", "more"]

        await watching.sql(TAG)
        assert (await tables.next()).event == "update"


async def test_a_view_that_changes_its_tables_is_followed(nats_server: NatsServer, tmp_path: Path) -> None:
    """D.2: dependencies are learned anew with every evaluation."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE, TAG, "CREATE VIEW things AS SELECT text AS name FROM note")
        follower = watching.follow("SELECT name FROM things")
        await follower.next()
        await watching.sql("DROP VIEW things", "CREATE VIEW things AS SELECT name FROM tag")
        await watching.sql("INSERT INTO tag VALUES ('now from here')")

        await follower.until_rows([["now from here"]])


async def test_records_that_nobody_told_about_are_noticed(nats_server: NatsServer, tmp_path: Path) -> None:
    """P2.7: another writer's commits are folded by ours when they get in its way, and then concern everybody."""
    db_id = new_db_id()
    async with (
        new_watching(nats_server, tmp_path / "one") as one,
        new_watching(nats_server, tmp_path / "other") as other,
    ):
        await one.sql(NOTE, TAG, db_id=db_id)
        follower = one.follow(COUNT, db_id=db_id)
        await follower.next()
        await other.sql("INSERT INTO note (text) VALUES ('from elsewhere')", db_id=db_id)
        await one.sql("INSERT INTO tag VALUES ('a')", db_id=db_id)

        await follower.until_rows([[1]])
