"""Bring a tree back into an empty folder, from what was recorded of it and the bytes that were kept."""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import apsw
from blake3 import blake3

from events.payload_errors import PayloadError
from events.payloads import READ_BYTES, PayloadStore
from forge.snapshot.reading import write_tags
from projectors.node import queries
from projectors.node.file_mode import RIGHTS, posix_mode
from schemas.node import TreeEntry
from schemas.os_text import shown

MISSING_SHOWN = 20
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NotRestored(Exception):
    """Nothing was restored; the message says why."""


@dataclass(slots=True)
class Restored:
    """What became of a restore. `missing` are the first files without bytes here, `passed_over` what else is left."""

    folders: int = 0
    files: int = 0
    symlinks: int = 0
    file_bytes: int = 0
    missing_count: int = 0
    missing: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)


def restore(db: apsw.Connection, tree: str, store: PayloadStore, target: bytes) -> Restored:
    """Write the tree into `target`, which is empty or not there. Raise `NotRestored`, or `OSError` half way.

    A file whose bytes are not here, or are not what their hash says, is listed and left out.
    """
    _prepare(target)
    done = Restored()
    later: list[Callable[[], None]] = []
    folders: list[tuple[bytes, str]] = [(target, tree)]
    while folders:
        folder, hash_ = folders.pop()
        done.folders += 1
        for entry in queries.entries(db, hash_):
            path = os.path.join(folder, entry.name)
            if entry.kind == "tree":
                os.mkdir(path, 0o700)
                folders.append((path, entry.target))
                later.append(_finishing(path, entry))  # rights and time of a folder last: writing into it needs them
            else:
                _write(path, entry, store, target, done)
    for finish in reversed(later):
        finish()
    return done


def _prepare(target: bytes) -> None:
    try:
        os.makedirs(target, 0o700, exist_ok=True)
        if os.listdir(target):
            raise NotRestored(f"{shown(target)} is not empty")
    except OSError as error:
        raise NotRestored(f"{shown(target)}: {error.strerror}") from error


def _write(path: bytes, entry: TreeEntry, store: PayloadStore, target: bytes, done: Restored) -> None:
    match entry.kind:
        case "file":
            if not _copy(store, entry, path):
                done.missing_count += 1
                if len(done.missing) < MISSING_SHOWN:
                    done.missing.append(shown(os.path.relpath(path, target)))
                return
            done.files += 1
            done.file_bytes += entry.size
        case "symlink":
            os.symlink(entry.link, path)
            done.symlinks += 1
        case _ if stat.S_ISFIFO(posix_mode(entry.mode)):
            os.mkfifo(path, 0o600)
        case _:
            if len(done.passed_over) < MISSING_SHOWN:
                done.passed_over.append(f"{shown(os.path.relpath(path, target))}: sockets and devices are not restored")
            return
    _finish(path, entry)


def _copy(store: PayloadStore, entry: TreeEntry, path: bytes) -> bool:
    """Write the bytes of a file while their hash is checked; return whether they are here and right."""
    try:
        kept = store.open(entry.target)
    except PayloadError:
        return False
    hasher = blake3()
    with kept, open(os.open(path, NEW_FILE, 0o600), "wb") as file:
        while chunk := kept.read(READ_BYTES):
            hasher.update(chunk)
            file.write(chunk)
    if hasher.hexdigest() != entry.target:
        os.unlink(path)
        return False
    return True


def _finishing(path: bytes, entry: TreeEntry) -> Callable[[], None]:
    return lambda: _finish(path, entry)


def _finish(path: bytes, entry: TreeEntry) -> None:
    """Give tags, rights and time, unless the snapshot was taken without them."""
    if entry.tags:
        write_tags(path, entry.tags)
    if not entry.mode and not entry.mtime_ns:
        return
    if entry.kind != "symlink":
        os.chmod(path, posix_mode(entry.mode) & RIGHTS)  # none at all, for a file that nobody may read
    with suppress(OverflowError):  # a time that this system cannot tell
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
