"""The SQLite file of a replica: whose it is, and folding records into it."""

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

import apsw

from events.cursor import Cursor, Entry
from forge.replica.errors import FileRefused
from forge.replica.identity import Identity, read_identity, write_identity
from projectors.catch_up import fold_group
from projectors.digest import digest
from projectors.document.domain import document_domain, document_partition, document_spec
from projectors.document.sql.bounds import SqlBounds
from projectors.projection import Projection, WrongProjection, connect, read_cursor
from schemas.ids import Position

GROUP_RECORDS = 1024  # folded in one transaction
GROUP_BYTES = 4 << 20
# Digests leave out tables of this prefix, so that a replica and its document have the same one.
MARK = "_forge_cache_replica"


class ReplicaFile:
    """An open replica. Blocking, one caller at a time; whoever opens it holds its `FollowerLock`."""

    def __init__(self, path: Path, db_id: str, projection: Projection) -> None:
        self.path = path
        self._projection = projection
        self._domain = document_domain(path.parent, SqlBounds())
        self._inode = _inode(path)

    @classmethod
    def open(cls, path: Path, db_id: str) -> Self:
        """Open an existing file; raise `FileRefused`, with the file untouched, unless it is a replica of `db_id`."""
        check_ours(path, db_id)
        partition = document_partition(db_id)
        try:
            return cls(path, db_id, Projection(document_spec(db_id, path, SqlBounds()), partition, decides=False))
        except WrongProjection as error:
            fix = "run the version of Forge that the node runs; with `--reseed` a new copy is taken"
            raise FileRefused("other-version", str(error), fix) from error

    @staticmethod
    def stands(path: Path, db_id: str) -> tuple[Position, Identity | None]:
        """Return where a file stands that need not be of this version, and whose it says it is.

        Raise `FileRefused` as `open` does.
        """
        check_ours(path, db_id)
        with closing(connect(path, readonly=True)) as db:
            return read_cursor(db).position, read_identity(db, "")

    def identity(self, kind: str) -> Identity:
        """Return who the replica is; one that an earlier version made gets a name now."""
        if (found := read_identity(self._projection.db, kind)) is not None:
            return found
        made = Identity.new(kind)
        write_identity(self._projection.db, made)
        return made

    @property
    def cursor(self) -> Cursor:
        """Where the file stands."""
        return self._projection.cursor

    def fold(self, entries: Sequence[Entry]) -> None:
        """Fold records, position and rows in one transaction; those that it has are passed over.

        Raise `FoldFailed` if a change does not fit the rows: the file is then as before. `FileRefused` if the file
        under this name is not the open one any more.
        """
        if _inode(self.path) != self._inode:
            why = f"{self.path} was removed or replaced while it was followed"
            raise FileRefused("not-a-replica", why, "start again; nobody else may move the file meanwhile")
        group: list[Entry] = []
        size = 0
        for entry in entries:
            group.append(entry)
            size += len(entry.record.payload)
            if len(group) >= GROUP_RECORDS or size >= GROUP_BYTES:
                fold_group(self._domain, [self._projection], group)
                group, size = [], 0
        fold_group(self._domain, [self._projection], group)

    def digest(self) -> str:
        """Return the digest of the content; the cursor does not move meanwhile."""
        return digest(self._projection.db)

    def close(self) -> None:
        """Close the file; what is in its WAL goes into it unless somebody reads."""
        self._projection.close()


def check_ours(path: Path, db_id: str) -> None:
    """Raise `FileRefused` unless the file is a replica of `db_id`. Changes nothing."""
    try:
        with closing(connect(path, readonly=True)) as db:
            if not db.table_exists("main", MARK) or not db.table_exists("main", "_forge_position"):
                tables = db.execute("SELECT count(*) FROM main.sqlite_schema").get
                what = "an empty database" if not tables else "a database, but not a replica that Forge made"
                raise FileRefused("not-a-replica", f"{path} is {what}")
            found = db.execute("SELECT partition FROM _forge_position").get
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise FileRefused("not-a-database", f"{path} is no SQLite database: {error}") from error
    except (apsw.CantOpenError, apsw.PermissionsError, apsw.IOError) as error:
        raise FileRefused("not-a-database", f"{path} cannot be opened: {error}") from error
    wanted = document_partition(db_id)
    if found != wanted.subject:
        raise FileRefused("other-document", f"{path} is a replica of {found}, not of {wanted.subject}")


def set_aside(path: Path, what: str) -> Path:
    """Give a SQLite file the name `FILE.what`, with everything that belongs to it; return the name."""
    kept = beside_free(path, what)
    os.replace(path, kept)  # first: a file without its WAL must not stay under the name
    for suffix in ("-wal", "-shm"):
        if (part := Path(f"{path}{suffix}")).exists():
            os.replace(part, f"{kept}{suffix}")
    return kept


def beside_free(path: Path, what: str) -> Path:
    """Return `FILE.what`, numbered if that exists."""
    free, number = path.with_name(f"{path.name}.{what}"), 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{what}.{number}")
    return free


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
