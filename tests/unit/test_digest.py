"""The digest depends on content alone, and the first difference names what made two digests differ."""

import random
import tracemalloc
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projectors import digest as walk
from projectors.difference import Difference, first_difference
from projectors.digest import digest, normalised

SCHEMAS = {
    "rowid alias": "CREATE TABLE item(id INTEGER PRIMARY KEY, a, b)",
    "text key": "CREATE TABLE item(id TEXT PRIMARY KEY NOT NULL, a, b)",
    "any key, without rowid": "CREATE TABLE item(id PRIMARY KEY NOT NULL, a, b) WITHOUT ROWID",
    "descending key": "CREATE TABLE item(a, b, id, PRIMARY KEY (id DESC))",
    "two keys": "CREATE TABLE item(a, b, id, kind DEFAULT 'x', PRIMARY KEY (kind, id)) WITHOUT ROWID",
    "no key": "CREATE TABLE item(id, a, b)",
    "no key and no name for rowid": "CREATE TABLE item(id, a, b, rowid, oid, _rowid_)",
}
values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-2, 2),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.binary(max_size=8),
)
contents = st.dictionaries(st.integers(0, 30), st.tuples(values, values), min_size=1, max_size=12)
schemas = st.sampled_from(sorted(SCHEMAS))


def opened(*statements: str) -> apsw.Connection:
    db = apsw.Connection(":memory:")
    for statement in statements:
        db.execute(statement)
    return db


def insert(db: apsw.Connection, schema: str, key: int, row: tuple[object, object]) -> None:
    if schema == "no key":
        db.execute("INSERT INTO item(rowid, id, a, b) VALUES (?, ?, ?, ?)", (key, key, *row))
    else:
        db.execute("INSERT INTO item(id, a, b) VALUES (?, ?, ?)", (key, *row))


def filled(schema: str, content: dict[int, tuple[object, object]]) -> apsw.Connection:
    db = opened(SCHEMAS[schema])
    for key, row in content.items():
        insert(db, schema, key, row)
    return db


@given(schemas, contents, st.randoms(use_true_random=False))
def test_order_and_detours_leave_no_trace(
    schema: str, content: dict[int, tuple[object, object]], chance: random.Random
) -> None:
    """PR2: equal content, reached by different histories, has equal digests."""
    straight = filled(schema, content)
    detour = opened(SCHEMAS[schema])
    for key in chance.sample(sorted(content), len(content)):
        insert(detour, schema, key, ("detour", key))
        insert(detour, schema, key + 100, ("gone", None))
    for key, row in content.items():
        detour.execute("UPDATE item SET a = ?, b = ? WHERE id = ?", (*row, key))
    detour.execute("DELETE FROM item WHERE CAST(id AS INTEGER) >= 100")

    assert digest(straight) == digest(detour)
    assert first_difference(straight, detour) is None


@given(schemas, contents, st.data())
def test_any_one_change_is_seen_and_named(
    schema: str, content: dict[int, tuple[object, object]], data: st.DataObject
) -> None:
    """PR2: one changed value changes the digest, and the difference names its row and column."""
    key = data.draw(st.sampled_from(sorted(content)))
    a, b = filled(schema, content), filled(schema, content)
    was = content[key][0]
    now = data.draw(values.filter(lambda v: (type(v), repr(v)) != (type(was), repr(was))))
    b.execute("UPDATE item SET a = ? WHERE id = ?", (now, key))

    found = first_difference(a, b)

    assert digest(a) != digest(b)
    assert found is not None
    assert (found.where, found.name) == ("table", "item")
    if schema != "no key and no name for rowid":
        assert (str(found.key[-1]), found.column) == (str(key), "a")
        assert (repr(found.left), repr(found.right)) == (repr(was), repr(now))


@given(schemas, contents, st.data())
def test_a_missing_row_is_seen_and_named(
    schema: str, content: dict[int, tuple[object, object]], data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(sorted(content)))
    a, b = filled(schema, content), filled(schema, content)
    b.execute("DELETE FROM item WHERE id = ?", (key,))

    found, mirrored = first_difference(a, b), first_difference(b, a)

    assert digest(a) != digest(b)
    assert found is not None
    assert mirrored is not None
    assert found.right is None
    assert mirrored.left is None
    assert str(key) in map(str, found.key)
    assert found.key == mirrored.key


@given(schemas, contents, st.integers(1, 5), st.integers(1, 64))
def test_batches_leave_no_trace(schema: str, content: dict[int, tuple[object, object]], rows: int, size: int) -> None:
    db = filled(schema, content)
    whole = digest(db)
    with pytest.MonkeyPatch.context() as bounds:
        bounds.setattr(walk, "BATCH_ROWS", rows)
        bounds.setattr(walk, "BATCH_BYTES", size)
        assert digest(db) == whole


def test_page_size_and_vacuum_do_not_matter(tmp_path: Path) -> None:
    seen = set()
    for page_size in (512, 4096, 65536):
        db = apsw.Connection(str(tmp_path / f"{page_size}.db"))
        db.execute(f"PRAGMA page_size = {page_size}")
        db.execute(SCHEMAS["text key"])
        for n in range(500):
            db.execute("INSERT INTO item VALUES (?, ?, ?)", (f"k{n}", n, n / 3))
        db.execute("DELETE FROM item WHERE a % 3 = 0")
        seen.add(digest(db))
        db.execute("VACUUM")
        seen.add(digest(db))
        copy = tmp_path / f"{page_size}-copy.db"
        db.execute("VACUUM INTO ?", (str(copy),))
        db.close()
        copied = apsw.Connection(str(copy), flags=apsw.SQLITE_OPEN_READONLY)
        seen.add(digest(copied))
        copied.close()
    assert len(seen) == 1


def test_vacuum_into_keeps_the_rowids_of_a_table_without_a_key(tmp_path: Path) -> None:
    """An in-place VACUUM renumbers such rowids, which later changes address: that counts as a change."""
    db = opened("CREATE TABLE item(a)", "INSERT INTO item VALUES (1), (2), (3)", "DELETE FROM item WHERE a = 2")
    db.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
    copy = apsw.Connection(str(tmp_path / "copy.db"))

    assert digest(copy) == digest(db)
    copy.execute("VACUUM")
    assert digest(copy) != digest(db)
    copy.close()


DIFFERENT = [
    "CREATE TABLE item(a)",
    "CREATE TABLE item(b)",
    "CREATE TABLE item(a); INSERT INTO item VALUES (NULL)",
    "CREATE TABLE item(a); INSERT INTO item VALUES (1)",
    "CREATE TABLE item(a); INSERT INTO item VALUES (1.0)",
    "CREATE TABLE item(a); INSERT INTO item VALUES ('1')",
    "CREATE TABLE item(a); INSERT INTO item VALUES (x'31')",
    "CREATE TABLE item(a); INSERT INTO item VALUES ('')",
    "CREATE TABLE item(a); INSERT INTO item VALUES (x'')",
    "CREATE TABLE item(a); INSERT INTO item VALUES (0.0)",
    "CREATE TABLE item(a); INSERT INTO item VALUES (9e999)",
    "CREATE TABLE item(a); INSERT INTO item VALUES ('a' || char(0))",
    "CREATE TABLE item(a); INSERT INTO item VALUES ('a' || char(0) || 'b')",
    "CREATE TABLE item(a); INSERT INTO item VALUES (CAST(x'61ff' AS TEXT))",
    "CREATE TABLE item(a); INSERT INTO item VALUES (CAST(x'61fe' AS TEXT))",
    "CREATE TABLE item(a); INSERT INTO item VALUES (x'61ff')",
    "CREATE TABLE item(a); INSERT INTO item VALUES ('61FF')",
    "CREATE TABLE item(a); INSERT INTO item VALUES ('ab'), ('c')",
    "CREATE TABLE item(a); INSERT INTO item VALUES ('a'), ('bc')",
    "CREATE TABLE item(a); CREATE INDEX i ON item(a)",
    "CREATE TABLE item(a); CREATE VIEW v AS SELECT a FROM item",
    "CREATE TABLE item(a); CREATE TRIGGER t AFTER INSERT ON item BEGIN SELECT 1; END",
    "CREATE TABLE item(a); PRAGMA user_version = 7",
    "CREATE TABLE item(a); PRAGMA application_id = 7",
    "CREATE TABLE item(a INTEGER PRIMARY KEY AUTOINCREMENT)",
    "CREATE TABLE item(a INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO item VALUES (5); DELETE FROM item",
    "CREATE TABLE item(a, b AS (a + 1))",
    "CREATE TABLE item(a, b AS (a + 2))",
    "CREATE VIRTUAL TABLE item USING fts5(a)",
    "CREATE VIRTUAL TABLE item USING fts5(a); INSERT INTO item VALUES ('word')",
]


def test_what_differs_in_any_way_has_its_own_digest() -> None:
    """PR2: and the first difference is found between any two, in both directions."""
    databases = [opened(sql) for sql in DIFFERENT]
    minus_zero = opened("CREATE TABLE item(a)")
    minus_zero.execute("INSERT INTO item VALUES (?)", (-0.0,))
    databases.append(minus_zero)

    assert len({digest(db) for db in databases}) == len(databases)
    for a in databases:
        for b in databases:
            assert (first_difference(a, b) is None) == (a is b)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE _forge_position(epoch, number)",
        "CREATE TABLE _forge_cache_page(a); CREATE INDEX _page ON _forge_cache_page(a)",
        "ANALYZE",
        "CREATE TABLE _forge_cache(n INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO _forge_cache VALUES (4)",
        "CREATE TABLE gone(n INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO gone VALUES (4); DROP TABLE gone",
    ],
)
def test_positions_caches_and_statistics_do_not_count(statement: str) -> None:
    plain = ["CREATE TABLE item(a)", "CREATE INDEX i ON item(a)", "INSERT INTO item VALUES (1), (2)"]
    a, b = opened(*plain), opened(*plain, statement)
    assert digest(a) == digest(b)
    assert first_difference(a, b) is None


def test_the_order_of_autoincrement_counters_does_not_matter() -> None:
    declared = [f"CREATE TABLE {name}(n INTEGER PRIMARY KEY AUTOINCREMENT)" for name in "ab"]
    first_a = opened(*declared, "INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (2)")
    first_b = opened(*declared, "INSERT INTO b VALUES (2)", "INSERT INTO a VALUES (1)")
    assert digest(first_a) == digest(first_b)


def test_rows_with_null_or_equal_numbers_in_their_key_have_one_order() -> None:
    rows = ["(NULL, 1)", "(NULL, 1.0)", "(NULL, 'x')", "(NULL, NULL)", "(NULL, 1)", "(3, 2)"]
    a, b = (opened("CREATE TABLE item(id TEXT, a, PRIMARY KEY (id))") for _ in range(2))
    a.execute(f"INSERT INTO item VALUES {', '.join(rows)}")
    b.execute(f"INSERT INTO item VALUES {', '.join(reversed(rows))}")
    assert digest(a) == digest(b)
    assert first_difference(a, b) is None

    b.execute("UPDATE item SET a = 2 WHERE rowid = 2")
    assert first_difference(a, b) == Difference("table", "item", (None,), left=(None, 1))


def test_stored_generated_columns_count_through_what_they_are_made_of() -> None:
    ddl = "CREATE TABLE item(id INTEGER PRIMARY KEY, a, b AS (a * 2) STORED)"
    a, b = opened(ddl, "INSERT INTO item VALUES (1, 4)"), opened(ddl, "INSERT INTO item VALUES (1, 5)")
    assert first_difference(a, b) == Difference("table", "item", (1,), "a", 4, 5)


def test_a_column_may_have_a_collation_that_this_process_does_not_know(tmp_path: Path) -> None:
    db = apsw.Connection(str(tmp_path / "collated.db"))
    db.create_collation("house", lambda left, right: (left > right) - (left < right))
    db.execute("CREATE TABLE item(id TEXT PRIMARY KEY, a COLLATE house)")
    db.execute("INSERT INTO item VALUES ('b', 1), ('a', 2)")
    known = digest(db)
    db.close()
    stranger = apsw.Connection(str(tmp_path / "collated.db"))
    assert digest(stranger) == known
    stranger.close()


def test_text_that_is_not_utf8_is_compared_and_shown() -> None:
    ddl = "CREATE TABLE item(id INTEGER PRIMARY KEY, a)"
    a = opened(ddl, "INSERT INTO item VALUES (1, CAST(x'61ff' AS TEXT))")
    b = opened(ddl, "INSERT INTO item VALUES (1, CAST(x'61fe' AS TEXT))")
    found = first_difference(a, b)
    assert found == Difference("table", "item", (1,), "a", "a\\xff", "a\\xfe")


def test_a_difference_reads_as_a_sentence() -> None:
    ddl = "CREATE TABLE item(kind, id, a, PRIMARY KEY (kind, id)) WITHOUT ROWID"
    a = opened(ddl, "INSERT INTO item VALUES ('x', 1, 'old')")
    b = opened(ddl, "INSERT INTO item VALUES ('x', 1, NULL)")
    c = opened(ddl)
    assert str(first_difference(a, b)) == "table item, key ('x', 1), column a: 'old' in one, NULL in the other"
    assert str(first_difference(c, b)) == "table item, key ('x', 1): nothing in one, ('x', 1, None) in the other"
    b.execute("DROP TABLE item")
    assert str(first_difference(b, c)).startswith("schema item: nothing in one, 'CREATE TABLE item(")


@pytest.mark.parametrize(
    ("sql", "form"),
    [
        ("CREATE TABLE t ( a ,\n\tb )", "CREATE TABLE t(a,b)"),
        ("CREATE TABLE t(a, -- the a\n b /* the\n b */)", "CREATE TABLE t(a,b)"),
        ("SELECT  'a  b -- c', \"a  b\", [c  d], `e  f`", "SELECT 'a  b -- c',\"a  b\",[c  d],`e  f`"),
        ("SELECT x 'ab' FROM t", "SELECT x 'ab' FROM t"),
        ("SELECT x'ab' FROM t", "SELECT x'ab' FROM t"),
        ("SELECT 1 - -1 / 2", "SELECT 1 - -1 / 2"),
        ("SELECT 'it''s  (' , 2 /* open", "SELECT 'it''s  (',2"),
    ],
)
def test_schema_text_loses_only_space_and_comments(sql: str, form: str) -> None:
    assert normalised(sql) == form


def test_a_column_added_later_equals_one_declared_at_once() -> None:
    grown = opened("CREATE TABLE item(a)", "ALTER TABLE item ADD COLUMN b")
    assert digest(grown) == digest(opened("CREATE TABLE item( a,b )"))


def test_a_broken_view_does_not_stop_the_digest() -> None:
    db = opened("CREATE TABLE item(a)", "CREATE VIEW v AS SELECT a FROM missing")
    assert first_difference(db, opened("CREATE TABLE item(a)")) == Difference(
        "schema", "v", left="CREATE VIEW v AS SELECT a FROM missing"
    )


def test_a_digest_inside_a_transaction_sees_what_the_transaction_wrote() -> None:
    db = opened("CREATE TABLE item(a)")
    before = digest(db)
    db.execute("BEGIN IMMEDIATE; INSERT INTO item VALUES (1)")
    assert digest(db) != before
    assert db.in_transaction
    db.execute("ROLLBACK")
    assert digest(db) == before


def test_the_digest_of_known_content_is_this_for_ever() -> None:
    """Digests are kept in manifests, so a new format must be a decision."""
    db = opened(
        "CREATE TABLE item(id INTEGER PRIMARY KEY, a, b)",
        "INSERT INTO item VALUES (1, NULL, 2.5), (2, 'text', x'00ff'), (-3, 9223372036854775807, '')",
    )
    assert digest(db) == "307de38b5057e9ac7e8417042e5745707abc65cae587c52e918ff21087146233"


def test_memory_does_not_grow_with_the_content() -> None:
    """PR7: 64 MiB in rows of 1 MiB among small ones are read a few rows at a time."""
    db = opened("CREATE TABLE item(id INTEGER PRIMARY KEY, a)")
    for n in range(64):
        db.execute("INSERT INTO item(a) VALUES (randomblob(1048576)), (?)", (n,))
    tracemalloc.start()
    digest(db)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * walk.BATCH_BYTES
