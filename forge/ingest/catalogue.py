"""The client's own memory of files: what each path held when it was last read. Disposable."""

import contextlib
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import apsw

from forge.ingest.content import Content

SCHEMA_VERSION = 1
FILE_NAME = "ingest.db"
BUSY_TIMEOUT_MS = 5000
_SCHEMA = """
CREATE TABLE file (
  folder BLOB NOT NULL,
  name BLOB NOT NULL,
  size_bytes INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL,
  digest BLOB,           -- BLAKE3, 32 bytes; NULL while only the first bytes were looked at
  content TEXT NOT NULL,
  seen_at INTEGER NOT NULL, -- when it was read, Unix seconds
  PRIMARY KEY (folder, name)
) WITHOUT ROWID;
CREATE INDEX file_digest ON file (digest) WHERE digest IS NOT NULL;
"""


class Remembered(NamedTuple):
    """What a file held while it had this size and modification time."""

    name: bytes
    size_bytes: int
    mtime_ns: int
    digest: bytes | None
    content: str


class Catalogue:
    """The open database; its methods are short, may be called from any thread and take turns."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._turn = threading.Lock()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open `<folder>/ingest.db`; a damaged or older one is replaced. Raises `OSError` or `apsw.Error`."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE_NAME
        try:
            return cls(_connect(str(path)))
        except (apsw.NotADBError, apsw.CorruptError, _OtherVersion):
            for leftover in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                leftover.unlink(missing_ok=True)
            return cls(_connect(str(path)))

    @classmethod
    def in_memory(cls) -> Self:
        """Return one that forgets everything when it is closed."""
        return cls(_connect(":memory:"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        with self._turn:
            self._db.close()

    def in_folder(self, folder: bytes) -> dict[bytes, Remembered]:
        """Return what is remembered of the files directly in `folder`, by name."""
        with self._turn:
            rows = self._db.execute(
                "SELECT name, size_bytes, mtime_ns, digest, content FROM file WHERE folder = ?", (folder,)
            )
            make = Remembered._make
            return {row[0]: make(row) for row in rows}

    def remember(self, files: Iterable[tuple[bytes, Remembered]], seen_at: int) -> None:
        """Store what `(folder, file)` pairs hold, in one transaction."""
        rows = [(folder, *file, seen_at) for folder, file in files]
        with self._turn, self._db:
            self._db.executemany("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def forget(self, folder: bytes, names: Sequence[bytes]) -> None:
        """Drop files that are no longer in `folder`."""
        with self._turn, self._db:
            self._db.executemany("DELETE FROM file WHERE folder = ? AND name = ?", [(folder, name) for name in names])

    def paths(self, digest: str) -> list[bytes]:
        """Return the paths that held this content when they were last read, sorted."""
        with self._turn:
            rows = self._db.execute(
                "SELECT folder, name FROM file WHERE digest = ? ORDER BY folder, name",
                (bytes.fromhex(digest),),
            )
            return [os.path.join(folder, name) for folder, name in rows]

    def content(self, digest: str) -> Content | None:
        """Return what the content of this digest looks like, None if no file with it is known."""
        with self._turn:
            row = self._db.execute(
                "SELECT content FROM file WHERE digest = ? LIMIT 1", (bytes.fromhex(digest),)
            ).fetchone()
        return Content(row[0]) if row else None


class _OtherVersion(Exception):
    """The file was made by another version of this program."""


def _connect(path: str) -> apsw.Connection:
    db = apsw.Connection(path)
    try:
        db.set_busy_timeout(BUSY_TIMEOUT_MS)
        db.pragma("journal_mode", "wal")
        db.pragma("synchronous", "normal")
        db.execute("BEGIN IMMEDIATE")  # two runs may start at once; only one makes the tables
        version = db.pragma("user_version")
        if version == 0 and not db.execute("SELECT 1 FROM sqlite_schema").fetchone():
            db.execute(_SCHEMA)
            db.pragma("user_version", SCHEMA_VERSION)
        elif version != SCHEMA_VERSION:
            raise _OtherVersion
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(apsw.Error):
            db.close()
        raise
    return db
