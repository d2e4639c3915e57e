"""Document files without a node, for tests of what is decided and folded in them."""

import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import apsw

from projectors.projection import schema_sql
from schemas.ids import PartitionId

SCHEMA = """
CREATE TABLE person (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, age INTEGER CHECK (age >= 0),
    born AS (2026 - age) VIRTUAL, loud TEXT AS (upper(name)) STORED);
CREATE TABLE pet (name TEXT PRIMARY KEY, owner INTEGER REFERENCES person(id) ON DELETE CASCADE, weight REAL);
CREATE TABLE tag (kind TEXT, label TEXT, value, PRIMARY KEY (label, kind)) WITHOUT ROWID;
CREATE TABLE heap (a, b BLOB);
CREATE TABLE strict_one (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, note TEXT) STRICT;
CREATE VIRTUAL TABLE note USING fts5(title, body);
CREATE VIRTUAL TABLE heap_text USING fts5(a, content='heap', content_rowid='rowid');
CREATE INDEX person_adult ON person(age) WHERE age >= 18;
CREATE INDEX tag_expression ON tag(lower(label) || kind);
CREATE VIEW grown AS SELECT * FROM person WHERE age >= 18;
CREATE TRIGGER person_tagged AFTER INSERT ON person BEGIN
    INSERT OR REPLACE INTO tag VALUES ('person', new.name, random());
END;
CREATE TRIGGER heap_indexed AFTER INSERT ON heap BEGIN
    INSERT INTO heap_text (rowid, a) VALUES (new.rowid, new.a);
END;
CREATE TRIGGER grown_inserted INSTEAD OF INSERT ON grown BEGIN
    INSERT INTO person (name, age) VALUES (new.name, 18);
END;
PRAGMA user_version = 7;
PRAGMA application_id = 99;
"""


def new_document(path: Path | str = ":memory:", schema: str = SCHEMA, *, index: int = 0) -> apsw.Connection:
    """Return a new document that stands at position 1.`index`."""
    db = apsw.Connection(str(path))
    db.execute(schema_sql("projection"))
    db.execute(schema_sql("document"))
    subject = PartitionId("doc", "test").subject
    db.execute("INSERT INTO _forge_position VALUES (1, ?, 1, ?, '', 0, '', '1')", (subject, index))
    db.execute("PRAGMA foreign_keys = ON")
    for _ in db.execute(schema):
        pass
    return db


def scribble(db: apsw.Connection, rng: random.Random, times: int = 30) -> None:
    """Change rows of every table of `SCHEMA` at random; what breaks a constraint is passed over."""
    for _ in range(times):
        number = rng.randint(1, 40)
        statements: Sequence[tuple[str, tuple[object, ...]]] = (
            ("INSERT INTO person (name, age) VALUES (?, ?)", (f"n{number}", rng.randint(-1, 60))),
            ("INSERT INTO pet VALUES (?, ?, ?)", (f"p{number}", rng.choice([None, rng.randint(1, 20)]), rng.random())),
            ("INSERT INTO tag VALUES (?, ?, ?)", (rng.choice("xy"), f"l{number}", rng.choice([1, 2.5, "z", None]))),
            ("INSERT INTO heap VALUES (?, ?)", (f"word{number} other", rng.randbytes(rng.randint(0, 50)))),
            ("INSERT INTO note VALUES (?, ?)", (f"t{number}", f"body of {number}")),
            ("INSERT INTO strict_one VALUES (?, ?, 'n')", (number, number)),
            ("UPDATE person SET age = age + 1 WHERE id = ?", (number,)),
            ("UPDATE pet SET weight = ? WHERE name = ?", (rng.random(), f"p{number}")),
            ("UPDATE tag SET value = value || 'x' WHERE label = ?", (f"l{number}",)),
            ("UPDATE note SET body = 'changed' WHERE rowid = ?", (number,)),
            ("UPDATE strict_one SET amount = ? WHERE id = ?", (rng.randint(0, 3), number)),
            ("DELETE FROM person WHERE id = ?", (number,)),
            ("DELETE FROM tag WHERE label = ?", (f"l{number}",)),
            ("DELETE FROM strict_one WHERE id = ?", (number,)),
            ("DELETE FROM note WHERE rowid = ?", (number,)),
        )
        sql, arguments = rng.choice(statements)
        with suppress(apsw.ConstraintError):
            db.execute(sql, arguments)
