"""What SQL of users can do to a document and its node: what its class says, and nothing else."""

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.permissions import ADMIN_PRAGMAS, READ_PRAGMAS, READ_PRAGMAS_ALONE
from projectors.document.sql.sandbox import explain, guard_of
from schemas.document import SqlClass
from schemas.problems import Problem
from tests.unit.hostile_sql import BOMBS, MALFORMED, OURS, OUTSIDE, SCHEMA, pragmas, uses_of
from tests.unit.sandboxed import ALL, SECRET, Sandboxed

BOUNDS = SqlBounds(seconds=0.5, temp_bytes=64 << 20)
CLASSES: tuple[tuple[SqlClass, ...], ...] = (("read",), ("read", "write"), ALL)


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandboxed]:
    """A document, alone in a directory that is the current one."""
    monkeypatch.chdir(tmp_path)
    document = Sandboxed(tmp_path, BOUNDS)
    yield document
    document.close()


def short(sql: str) -> str:
    return sql[:50]


def everywhere(document: Sandboxed, sql: str) -> Iterator[object]:
    """Run it as a read, and on the writer in each class; check that nothing is amiss."""
    before = document.content()
    yield document.read(sql)
    assert document.content() == before
    for classes in CLASSES:
        yield document.write(sql, classes)
    document.check()
    assert document.read("SELECT 1") == document.read("SELECT 1"), "the reader is of use"


@pytest.mark.parametrize("sql", [*OUTSIDE, *OURS, *SCHEMA], ids=short)
def test_nobody_gets_out_of_a_document_or_into_what_is_forges_own(document: Sandboxed, sql: str) -> None:
    """PR6, P2.3, P2.4, P2.5, G-13, G-14, G-15: each is refused, whoever asks, and nothing changes."""
    content = document.writer.serialize("main")
    for outcome in everywhere(document, sql):
        assert isinstance(outcome, Problem), outcome
        assert outcome.status in (400, 403)
    assert document.writer.serialize("main") == content


@pytest.mark.parametrize("sql", BOMBS, ids=short)
def test_no_statement_takes_time_or_memory_without_end(document: Sandboxed, sql: str) -> None:
    """PR7, P2.6: it is refused or interrupted, or cheap after all; memory stays bounded and the connection of use."""
    apsw.memory_high_water(True)
    for outcome in everywhere(document, sql):
        assert not isinstance(outcome, Problem) or outcome.status in (400, 403, 408, 413)
    assert apsw.memory_high_water() < 512 << 20


@pytest.mark.parametrize("sql", MALFORMED, ids=short)
def test_what_is_no_statement_is_named_so(document: Sandboxed, sql: str) -> None:
    """P2.2, G-17: no text makes anything but a problem of the sender."""
    for outcome in everywhere(document, sql):
        assert isinstance(outcome, Problem)
        assert outcome.status in (400, 403, 422)


@pytest.mark.parametrize("pragma", pragmas())
def test_a_pragma_tells_about_the_schema_or_is_refused(document: Sandboxed, pragma: str) -> None:
    """PR6, P2.3: the list of SQLite's own is gone through, in every form."""
    before = [
        document.writer.execute(f"PRAGMA {name}").fetchall() for name in ("journal_mode", "synchronous", "query_only")
    ]
    for sql in uses_of(pragma):
        alone = "1" not in sql and "OFF" not in sql and "(" not in sql
        for outcome in everywhere(document, sql):
            if not isinstance(outcome, Problem):
                assert pragma in READ_PRAGMAS or (pragma in READ_PRAGMAS_ALONE and alone) or pragma in ADMIN_PRAGMAS
    assert before == [
        document.writer.execute(f"PRAGMA {name}").fetchall() for name in ("journal_mode", "synchronous", "query_only")
    ]


def test_an_admin_may_set_what_a_file_says_of_itself(document: Sandboxed) -> None:
    """P2.5: `user_version` and `application_id` are the document's."""
    for pragma in sorted(ADMIN_PRAGMAS):
        refused = document.write(f"PRAGMA {pragma} = 5", ("read", "write"))
        assert isinstance(refused, Problem)
        assert "query.admin" in refused.detail
        assert not isinstance(document.write(f"PRAGMA {pragma} = 5"), Problem)
        found = document.read(f"PRAGMA {pragma}")
        assert not isinstance(found, Problem)
        assert found.rows == [(5,)]


KINDS: tuple[tuple[SqlClass, str], ...] = (
    ("read", "SELECT * FROM t"),
    ("read", "-- first\n/* second */ SELECT 'a;b' -- third"),
    ("read", "SELECT a, sum(b) OVER (ORDER BY id) FROM t WHERE a LIKE 'o%' GROUP BY 1 HAVING count(*) > 0"),
    ("read", "WITH x AS (SELECT * FROM w) SELECT * FROM x, json_each('[1]')"),
    ("read", "SELECT highlight(f, 1, '<', '>'), snippet(f, 1, '', '', '', 3), bm25(f) FROM f('quick') ORDER BY rank"),
    ("read", "SELECT * FROM f WHERE f MATCH 'quick OR dog'"),
    ("read", "SELECT * FROM sqlite_schema"),
    ("read", "EXPLAIN QUERY PLAN SELECT * FROM t"),
    ("read", "EXPLAIN SELECT * FROM t"),
    ("read", "VALUES (1), (2)"),
    (
        "read",
        "SELECT json(jsonb_patch('{\"a\":1}', '{\"b\":2}')), json_extract(d, '$.a[0]'), d ->> 'a' FROM t WHERE id = 3",
    ),
    (
        "read",
        "SELECT date('now'), strftime('%s'), unixepoch(), random(), sqrt(2), printf('%5.2f', 1), median(b) FROM t",
    ),
    ("write", "INSERT INTO t (a) VALUES ('x') RETURNING id"),
    ("write", "INSERT INTO u VALUES ('one', 1, NULL) ON CONFLICT DO UPDATE SET v = excluded.v"),
    ("write", "WITH x AS (SELECT 1) DELETE FROM t"),
    ("write", "UPDATE t SET a = upper(a) WHERE id IN (SELECT id FROM n)"),
    ("write", "REPLACE INTO n (id, x) VALUES (1, 2)"),
    ("write", "DELETE FROM sqlite_sequence"),
    ("write", "UPDATE sqlite_sequence SET seq = 10"),
    ("write", "INSERT INTO f (f) VALUES ('optimize')"),
    ("write", "INSERT INTO f (f) VALUES ('rebuild')"),
    ("write", "INSERT INTO f (f) VALUES ('integrity-check')"),
    ("write", "INSERT INTO f (f, rank) VALUES ('rank', 'bm25(10.0, 5.0)')"),
    ("write", "UPDATE f SET title = 'x'"),
    ("write", "DELETE FROM f"),
    ("admin", "CREATE TABLE x (a INTEGER PRIMARY KEY, b UNIQUE, c CHECK (length(c) < 5), d AS (a + 1) STORED)"),
    ("admin", "CREATE TABLE x AS SELECT a, count(*) FROM t GROUP BY 1"),
    ("admin", "CREATE TABLE x (a REFERENCES t (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED)"),
    ("admin", "CREATE UNIQUE INDEX x ON t (lower(trim(a, 'x'))) WHERE instr(a, 'o') > 0"),
    ("admin", "CREATE VIEW x AS SELECT replace(a, 'o', '0') FROM t"),
    ("admin", "CREATE TRIGGER x AFTER INSERT ON messages BEGIN INSERT INTO t (a) VALUES (new.payload); END"),
    ("admin", "CREATE TRIGGER x INSTEAD OF INSERT ON w BEGIN SELECT RAISE(ABORT, 'no'); END"),
    ("admin", "CREATE VIRTUAL TABLE x USING fts5(a, b UNINDEXED, tokenize='porter unicode61', prefix='2 3')"),
    ("admin", "CREATE VIRTUAL TABLE x USING fts5(a, content='t', content_rowid='id', tokenize='trigram')"),
    ("admin", "CREATE VIRTUAL TABLE x USING fts5(a, content='', contentless_delete=1)"),
    ("admin", "CREATE VIRTUAL TABLE x USING fts5vocab('f', 'row')"),
    ("admin", "ALTER TABLE t ADD COLUMN e TEXT NOT NULL DEFAULT '' CHECK (length(e) < 5)"),
    ("admin", "ALTER TABLE t ADD COLUMN e AS (upper(a))"),
    ("admin", "ALTER TABLE t RENAME COLUMN b TO bb"),
    ("admin", "ALTER TABLE t DROP COLUMN c"),
    ("admin", "ALTER TABLE t RENAME TO tt"),
    ("admin", "ALTER TABLE f RENAME TO ff"),
    ("admin", "ALTER TABLE n ALTER COLUMN x DROP NOT NULL"),
    ("admin", "ALTER TABLE t ADD CONSTRAINT positive CHECK (id > 0)"),
    ("admin", "ALTER TABLE messages ADD COLUMN mine"),
    ("admin", "CREATE INDEX mine ON messages (id)"),
    ("admin", "DROP TABLE t"),
    ("admin", "DROP TABLE f"),
    ("admin", "DROP TABLE n"),
    ("admin", "DROP VIEW w"),
    ("admin", "DROP INDEX t_a"),
    ("admin", "DROP TRIGGER counts"),
    ("admin", "REINDEX"),
    ("admin", "REINDEX t"),
    ("admin", "ANALYZE"),
    ("admin", "ANALYZE t"),
)


@pytest.mark.parametrize(("kind", "sql"), KINDS, ids=lambda value: short(str(value)))
def test_a_statement_needs_the_class_that_its_effects_say(document: Sandboxed, kind: SqlClass, sql: str) -> None:
    """P2.3, P2.4, P2.5, G-13: with less it is refused by the name of the scope; with it, it runs."""
    for classes in CLASSES:
        if kind not in classes:
            refused = document.write(sql, classes)
            assert isinstance(refused, Problem)
            assert (refused.status, f"query.{kind}" in refused.detail) == (403, True)
    if kind != "read":
        assert isinstance(document.read(sql), Problem)
    done = document.write(sql)
    assert not isinstance(done, Problem), done
    assert done.kind == kind
    assert document.write("INSERT INTO n (x) VALUES (4)", ("write",)) is not None
    assert document.writer.execute("PRAGMA integrity_check").get == "ok"
    assert set(os.listdir(document.directory)) <= {"document.db", "document.db-wal", "document.db-shm"}


def test_who_may_only_write_does_not_read(document: Sandboxed) -> None:
    """P2.4: a statement without any effect is a read."""
    refused = document.write("SELECT * FROM t", ("write",))
    assert isinstance(refused, Problem)
    assert "query.read" in refused.detail


def test_triggers_of_users_run_under_the_rules_when_forge_itself_writes(document: Sandboxed) -> None:
    """P2.5: a trigger on a system table cannot call what its author could not."""
    made = "CREATE TRIGGER x AFTER INSERT ON messages BEGIN INSERT INTO t (a) VALUES (sqlite_source_id()); END"
    document.writer.execute(made)  # as a Forge that allowed the function might have done
    with pytest.raises(apsw.SQLError, match="not authorized"):
        document.writer.execute("INSERT INTO messages (payload) VALUES ('from Forge')")


NEVER: tuple[tuple[str, str], ...] = (
    ("AFTER INSERT ON t BEGIN UPDATE messages SET payload = 'x'; END", "x: writing payload of messages is"),
    ("BEFORE UPDATE OF d, b ON t WHEN 0 BEGIN INSERT INTO messages (payload) VALUES (new.a); END", "writing messages"),
    ("AFTER DELETE ON n BEGIN INSERT INTO u VALUES (1, 2, 3); DELETE FROM messages; END", "writing messages is"),
    ("AFTER UPDATE ON n BEGIN DELETE FROM messages; END", "writing messages is"),
    ("INSTEAD OF INSERT ON w BEGIN DELETE FROM messages; END", "writing messages is"),
    ("INSTEAD OF UPDATE OF times ON w BEGIN DELETE FROM messages; END", "writing messages is"),
    ("INSTEAD OF DELETE ON w BEGIN DELETE FROM messages; END", "writing messages is"),
    ("AFTER INSERT ON messages BEGIN SELECT sqlite_source_id(); END", "the function sqlite_source_id() is"),
    ("AFTER UPDATE ON messages BEGIN UPDATE messages SET id = 1; END", "x: writing id of messages is"),
)


@pytest.mark.parametrize(("on", "why"), NEVER)
def test_a_trigger_that_could_never_fire_is_not_made(document: Sandboxed, on: str, why: str) -> None:
    """P2.5: SQLite looks at what it does only when it fires; its author hears of it before."""
    refused = document.write(f"CREATE TRIGGER x {on}")
    assert isinstance(refused, Problem)
    assert (refused.status, why in refused.detail) == (403, True), refused.detail
    assert "every statement that fires it would be refused" in refused.detail
    assert not isinstance(document.write("INSERT INTO t (a) VALUES ('still')"), Problem)


@pytest.mark.parametrize(
    "made",
    [
        "AFTER INSERT ON t BEGIN INSERT INTO later VALUES (new.a); END",
        "AFTER UPDATE ON t BEGIN UPDATE messages SET mine = 1; END",
        "AFTER DELETE ON t BEGIN INSERT INTO broken VALUES (1); END",
    ],
)
def test_a_trigger_may_need_what_is_made_after_it(document: Sandboxed, made: str) -> None:
    """P2.5: and is not to blame for what another trigger does."""
    assert not isinstance(document.write("CREATE TABLE broken (a)"), Problem)
    document.writer.execute("CREATE TRIGGER breaks AFTER INSERT ON broken BEGIN DELETE FROM messages; END")
    assert not isinstance(document.write(f"CREATE TRIGGER x {made}"), Problem)
    for sql in ("CREATE TABLE later (a)", "ALTER TABLE messages ADD COLUMN mine", "INSERT INTO t (a) VALUES ('a')"):
        assert not isinstance(document.write(sql), Problem)
    assert not isinstance(document.write("UPDATE t SET a = 'b'"), Problem)
    refused = document.write("INSERT INTO broken VALUES (1)")
    assert isinstance(refused, Problem)
    assert refused.detail == "in the trigger breaks: writing messages is not allowed"


def test_triggers_of_users_are_interrupted_when_forge_itself_writes(document: Sandboxed) -> None:
    """P2.6: a trigger on a system table cannot hold up the commit loop."""
    forever = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    made = f"CREATE TRIGGER x AFTER INSERT ON messages BEGIN UPDATE t SET d = ({forever}); END"
    assert not isinstance(document.write(made), Problem)
    guard = guard_of(document.writer)
    with pytest.raises(apsw.InterruptError) as error, guard.limited(time.monotonic() + 0.1):
        document.writer.execute("INSERT INTO messages (payload) VALUES ('from Forge')")
    assert explain(error.value, guard).problem.status == 408
    document.check()


def test_statistics_say_nothing_of_what_is_forges_own(document: Sandboxed) -> None:
    """PR6: ANALYZE passes over the tables whose rows users may not see."""
    document.write("ANALYZE")
    assert document.writer.execute("SELECT count(*) FROM sqlite_stat1 WHERE tbl GLOB '_forge*'").get == 0
    refused = document.write("DELETE FROM sqlite_stat1")
    assert isinstance(refused, Problem)


def test_a_statement_in_one_mode_is_not_found_prepared_in_another(document: Sandboxed) -> None:
    """PR6: what Forge asks, word for word, is refused to users."""
    sql = "SELECT answer FROM _forge_command"
    assert document.writer.execute(sql).get == SECRET
    for _ in range(3):
        assert isinstance(document.write(sql), Problem)


def test_a_runaway_statement_is_interrupted_and_the_next_one_runs(document: Sandboxed) -> None:
    """P2.6: 408 by name, on both kinds of connection; what it wrote is undone."""
    bomb = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
    for outcome in (
        document.read(f"{bomb} SELECT count(*) FROM c"),
        document.write(f"{bomb} INSERT INTO n (x) SELECT x % 10 FROM c"),
    ):
        assert isinstance(outcome, Problem)
        assert outcome.type == "urn:forge:problem:query-timeout"
    assert document.writer.execute("SELECT count(*) FROM n").get == 3
    assert not isinstance(document.write("INSERT INTO n (x) VALUES (9)"), Problem)


@pytest.mark.parametrize("sql", ["SELECT hex(a) FROM t", "SELECT a FROM t", "INSERT INTO n (x) VALUES (abs(3))"])
def test_a_statement_whose_time_is_over_before_it_is_compiled_is_no_wrong_one(document: Sandboxed, sql: str) -> None:
    """P2.6: SQLite says of a function that is refused meanwhile what it says of one that does not exist."""
    guard = guard_of(document.writer)
    with guard.running(ALL, time.monotonic() + 60):
        guard.stopped = "time"
        with pytest.raises(apsw.Error) as raised:
            document.writer.execute(sql)

    assert explain(raised.value, guard).problem.type == "urn:forge:problem:query-timeout"


def test_a_statement_that_takes_too_much_memory_is_stopped_by_name(document: Sandboxed) -> None:
    """P2.6, PR7: 413, long before the memory of the process is at its bound."""
    rows = "WITH RECURSIVE c(x) AS (SELECT randomblob(1000000) UNION ALL SELECT randomblob(1000000) FROM c LIMIT 900)"
    refused = document.read(f"{rows} SELECT count(*) FROM (SELECT x FROM c ORDER BY x)")
    assert isinstance(refused, Problem)
    assert refused.type in ("urn:forge:problem:query-too-large", "urn:forge:problem:query-timeout")


def test_a_full_text_index_that_does_not_fit_its_content_is_no_damage(document: Sandboxed) -> None:
    """P2.5: users keep an index over a table of theirs, and may keep it wrongly."""
    document.write("CREATE VIRTUAL TABLE x USING fts5(a, content='t', content_rowid='id')")
    document.write("INSERT INTO x (rowid, a) VALUES (99, 'nowhere')")
    refused = document.read("SELECT * FROM x('nowhere')")
    assert isinstance(refused, Problem)
    assert (refused.status, "full-text" in refused.detail) == (422, True)
    assert not isinstance(document.write("INSERT INTO x (x) VALUES ('rebuild')"), Problem)
    assert not isinstance(document.read("SELECT * FROM x('nowhere')"), Problem)


def test_many_calls_are_for_short_values_and_few_for_long_ones(document: Sandboxed) -> None:
    """P2.6: nothing interrupts SQLite within a row, so there is a bound on calls times length."""
    long = "x" * (1 << 20)
    few = document.read("SELECT length(upper(?))", [long])
    assert not isinstance(few, Problem)
    many = document.read("SELECT " + ", ".join(["length(upper(?1))"] * 1000), [long])
    assert isinstance(many, Problem)
    assert many.type == "urn:forge:problem:query-too-large"
    assert document.read("SELECT length(upper(?))", [long]) == few
    assert not isinstance(document.read("SELECT " + ", ".join(["length(upper(?1))"] * 1000), ["short"]), Problem)


def test_a_value_of_ten_mebibytes_goes_in_and_out(document: Sandboxed) -> None:
    """P2.2: blobs up to the bound are stored, compared and searched."""
    assert not isinstance(document.write("INSERT INTO t (id, c) VALUES (9, zeroblob(10485760))"), Problem)
    found = document.read("SELECT length(c), instr(c, x'01'), octet_length(c || x'') FROM t WHERE id = 9")
    assert not isinstance(found, Problem)
    assert found.rows == [(10 << 20, 0, 10 << 20)]


def test_what_to_do_instead_of_dropping_a_system_table_is_what_can_be_done(document: Sandboxed) -> None:
    with closing(apsw.Connection(str(document.path))) as db:
        db.execute("CREATE TABLE webhook_inbox (id INTEGER PRIMARY KEY, endpoint TEXT)")
        db.execute("INSERT INTO webhook_inbox DEFAULT VALUES")
    inbox, messages, made = (
        document.write(sql)
        for sql in ("DROP TABLE webhook_inbox", "DROP TABLE messages", "CREATE TABLE webhook_inbox (x)")
    )
    assert isinstance(inbox, Problem)
    assert isinstance(messages, Problem)
    assert isinstance(made, Problem)
    assert "another" not in inbox.fix + messages.fix
    assert "`DELETE FROM webhook_inbox` empties" in inbox.fix
    assert "choose another" in made.fix
    assert not isinstance(document.write("DELETE FROM webhook_inbox"), Problem)
