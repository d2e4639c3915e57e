"""A downloaded snapshot on disk: checked before anything else opens it, then made the replica."""

import base64
import hashlib
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw

from events.cursor import Cursor
from forge.replica.errors import FileRefused, SnapshotRefused
from forge.replica.file import MARK
from forge.replica.identity import Identity, write_identity
from forge.replica.lock import beside
from projectors.digest import digest
from projectors.document.domain import document_partition
from projectors.projection import connect, read_cursor, remove_database
from schemas.ids import Position
from schemas.instants import now


@dataclass(frozen=True, slots=True)
class SnapshotHead:
    """What a node says of a snapshot: where it stands, its content digest, and its bytes."""

    position: Position
    hash: str
    digest: str
    sha256: bytes
    etag: str
    size_bytes: int


def download_path(path: Path) -> Path:
    """Return where the snapshot for `path` is gathered."""
    return beside(path, "download")


def discard(download: Path) -> None:
    """Remove a download with all that belongs to it."""
    remove_database(download)
    beside(download, "etag").unlink(missing_ok=True)


def check(download: Path, db_id: str, head: SnapshotHead, content: bool = False) -> None:
    """Raise `SnapshotRefused` unless the file is what `head` says, undamaged, and the document `db_id`.

    `content`: compute the digest too, which reads all rows.
    """
    for suffix in ("-wal", "-shm", "-journal"):  # of an installation that was killed: SQLite would apply it
        Path(f"{download}{suffix}").unlink(missing_ok=True)
    if (size := download.stat().st_size) != head.size_bytes:
        raise SnapshotRefused(f"the snapshot has {size} bytes, the node said {head.size_bytes}")
    with download.open("rb") as file:
        if hashlib.file_digest(file, "sha256").digest() != head.sha256:
            raise SnapshotRefused("the snapshot was altered on its way: its SHA-256 is not the one that the node named")
    try:
        cursor = _check_database(download, db_id)
        found = _digest(download) if content else head.digest
    except (apsw.Error, ValueError) as error:
        raise SnapshotRefused(f"the snapshot cannot be used: {error}") from error
    if cursor.position != head.position:
        raise SnapshotRefused(f"the snapshot stands at {cursor.position}, the node said {head.position}")
    if cursor.hash != head.hash:
        raise SnapshotRefused(f"the snapshot has another history: {cursor.hash} at {cursor.position}, not {head.hash}")
    if found != head.digest:
        raise SnapshotRefused(f"the snapshot's content has the digest {found}, the node said {head.digest}")


def _check_database(download: Path, db_id: str) -> Cursor:
    with closing(connect(download, readonly=True)) as db:
        for pragma in ("cell_size_check=ON", "trusted_schema=OFF"):
            db.execute(f"PRAGMA {pragma}")
        if (found := db.execute("PRAGMA quick_check(1)").get) != "ok":
            raise ValueError(f"it is damaged: {found}")
        if not db.table_exists("main", "_forge_position"):
            raise ValueError("it is no document")
        partition, wanted = db.execute("SELECT partition FROM _forge_position").get, document_partition(db_id).subject
        if partition != wanted:
            raise ValueError(f"it is {partition}, not {wanted}")
        return read_cursor(db)


def _digest(download: Path) -> str:
    with closing(connect(download, readonly=True)) as db:
        return digest(db)


def install(download: Path, path: Path, url: str, identity: Identity) -> None:
    """Make a verified download the replica at `path`, where there is nothing; it appears whole or not at all."""
    with closing(connect(download)) as db:
        db.execute(f"CREATE TABLE {MARK} (url TEXT NOT NULL, since TEXT NOT NULL)")
        db.execute(f"INSERT INTO {MARK} VALUES (?, ?)", (url, now()))
        write_identity(db, identity)
        for _ in db.execute("PRAGMA journal_mode=WAL"):
            pass
    _sync(download)
    if path.exists():
        raise FileRefused("not-a-replica", f"{path} appeared while its content was fetched")
    remove_database(path)  # a WAL that somebody's removed file left would be applied to the new one
    os.replace(download, path)
    _sync(path.parent)
    discard(download)


def sha256_of(header: str) -> bytes:
    """Return the SHA-256 in a `Repr-Digest` header; raise `ValueError` if there is none."""
    for member in header.split(","):
        name, _, value = member.strip().partition("=")
        if name == "sha-256" and value[:1] + value[-1:] == "::":
            return base64.b64decode(value[1:-1], validate=True)
    raise ValueError(f"no sha-256 in {header!r}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
