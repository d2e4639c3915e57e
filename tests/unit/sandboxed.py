"""A document in a file of its own, with a reader and a writer, on which tests run whatever SQL they like."""

import os
import time
from pathlib import Path

import apsw

from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.results import Result
from projectors.document.sql.sandbox import configure_reader, configure_writer, guard_of
from projectors.document.sql.statements import execute
from projectors.projection import connect, schema_sql
from schemas.document import SqlClass, Statement
from schemas.problems import Problem, Refusal

ALL: tuple[SqlClass, ...] = ("read", "write", "admin")
SECRET = "the answer to a command of somebody else"
FILES = {"document.db", "document.db-wal", "document.db-shm"}

CONTENT = f"""
CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b REAL, c BLOB, d);
CREATE TABLE u (k TEXT PRIMARY KEY, v, t REFERENCES t (id) ON DELETE CASCADE) WITHOUT ROWID;
CREATE TABLE n (id INTEGER PRIMARY KEY AUTOINCREMENT, x INTEGER NOT NULL CHECK (x < 1000), y INTEGER AS (x * 2)) STRICT;
CREATE TABLE messages (id INTEGER PRIMARY KEY, payload TEXT);
CREATE INDEX t_a ON t (lower(a)) WHERE b IS NOT NULL;
CREATE INDEX messages_payload ON messages (payload);
CREATE VIEW w AS SELECT a, count(*) AS times FROM t GROUP BY a;
CREATE TRIGGER counts AFTER INSERT ON t BEGIN INSERT OR IGNORE INTO u VALUES (new.a, random(), NULL); END;
CREATE VIRTUAL TABLE f USING fts5 (title, body);
INSERT INTO t (a, b, c, d) VALUES ('one', 1.5, x'00ff', NULL), ('two', NULL, x'', 7);
INSERT INTO t (a, b, c, d) VALUES ('three', -1e300, NULL, '{{"a":[1]}}');
INSERT INTO n (x) VALUES (1), (2), (3);
INSERT INTO messages (payload) VALUES ('hello');
INSERT INTO f VALUES ('hello', 'the quick brown fox'), ('bye', 'jumps over the lazy dog');
INSERT INTO _forge_position VALUES (1, 'doc.x', 1, 7, 'hash', 9, '2026-01-01T00:00:00.000000Z', 'v');
INSERT INTO _forge_command VALUES ('id', 'fingerprint', '1.7', '{SECRET}', '2026-01-01T00:00:00.000000Z');
"""


class Sandboxed:
    """The document. Close it."""

    def __init__(self, directory: Path, bounds: SqlBounds) -> None:
        self.directory = directory
        self.bounds = bounds
        self.path = directory / "document.db"
        self.writer = connect(self.path)
        for _ in self.writer.execute("PRAGMA journal_mode=WAL"):
            pass
        self.writer.execute(schema_sql("projection"))
        self.writer.execute(CONTENT)
        configure_writer(self.writer, bounds)
        self.reader = connect(self.path, readonly=True)
        configure_reader(self.reader, bounds)
        self._kept = self._ours()

    def close(self) -> None:
        """Close both connections."""
        self.reader.close()
        self.writer.close()

    def read(self, sql: str, args: list[object] | None = None) -> Result | Problem:
        """Run a statement as a read."""
        return self._run(self.reader, sql, ("read",), args)

    def write(
        self, sql: str, classes: tuple[SqlClass, ...] = ALL, args: list[object] | None = None
    ) -> Result | Problem:
        """Run a statement on the writing connection, and keep what it did unless it was refused."""
        self.writer.execute("BEGIN IMMEDIATE")
        outcome = self._run(self.writer, sql, classes, args)
        if self.writer.in_transaction:
            self.writer.execute("ROLLBACK" if isinstance(outcome, Problem) else "COMMIT")
        return outcome

    def _run(
        self, db: apsw.Connection, sql: str, classes: tuple[SqlClass, ...], args: list[object] | None
    ) -> Result | Problem:
        guard = guard_of(db)
        problem = None
        try:
            with guard.running(classes, time.monotonic() + self.bounds.seconds):
                result = execute(db, guard, Statement(sql=sql, args=args or []), self.bounds)
        except Refusal as refusal:
            problem = refusal.problem
        if problem is not None:
            assert problem.status in (400, 403, 408, 409, 413, 422), (sql, problem)
            return problem
        assert SECRET not in repr(result.rows), sql
        assert result.kind in classes, sql
        return result

    def check(self) -> None:
        """Assert that nothing is amiss: no file beside, Forge's own tables as they were, the file whole."""
        assert set(os.listdir(self.directory)) <= FILES
        assert self._ours() == self._kept
        assert self.writer.execute("SELECT id, payload FROM messages").fetchall() == [(1, "hello")]
        names = {name for _, name, _ in self.writer.execute("PRAGMA database_list")}
        assert names <= {"main", "temp"}
        assert self.writer.execute("SELECT count(*) FROM sqlite_temp_schema").get == 0

    def content(self) -> bytes:
        """Return the file as it is, with what is still in the WAL."""
        return b"".join((self.directory / name).read_bytes() for name in ("document.db", "document.db-wal"))

    def _ours(self) -> list[object]:
        return [
            self.writer.execute(f"SELECT * FROM {table}", can_cache=False).fetchall()
            for table in (
                "_forge_position",
                "_forge_command",
                "(SELECT name, sql FROM sqlite_schema WHERE name GLOB '_forge*')",
            )
        ]
