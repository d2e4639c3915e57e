"""Walking a folder: which files may be for us, and which of them are known without opening them."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from forge.ingest.catalogue import Catalogue, Remembered
from forge.ingest.content import Content, Kind, unfit_by_content, unfit_by_name

CHUNK_FILES_MAX = 1000


class File(NamedTuple):  # a tuple is made in a third of the time of a frozen dataclass
    """A regular file as the walk saw it; `digest` (32 bytes) if it is known and still fits."""

    folder: bytes
    name: bytes
    size_bytes: int
    mtime_ns: int
    digest: bytes | None = None

    @property
    def path(self) -> bytes:
        """The folder and the name in one."""
        return os.path.join(self.folder, self.name)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A path that is left out, and why."""

    path: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A path that should have been ingested and was not, and why."""

    path: bytes
    reason: str


@dataclass(slots=True)
class Chunk:
    """At most `CHUNK_FILES_MAX` paths, each in exactly one of the lists."""

    known: list[File] = field(default_factory=list)
    unread: list[File] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.known) + len(self.unread) + len(self.skipped) + len(self.failed)


@dataclass(frozen=True, slots=True)
class Walk:
    """What to walk: hidden files too, in order of name, never through symbolic links.

    `excluded` are folders to leave out, each as device and inode. With `read_only` the catalogue is not changed.
    """

    root: bytes
    kind: Kind
    excluded: frozenset[tuple[int, int]] = frozenset()
    read_only: bool = False

    def chunks(self, catalogue: Catalogue) -> Iterator[Chunk]:
        """Yield the files below `root` in order; raise `OSError` if `root` cannot be listed."""
        folders = [self.root]
        chunk = Chunk()
        while folders:
            folder = folders.pop()
            below: list[bytes] = []
            try:
                entries = sorted(_listing(folder), key=attrgetter("name"))
            except OSError as error:
                if folder == self.root:
                    raise
                chunk.failed.append(Failed(folder, unreadable(error)))
                continue
            remembered = catalogue.in_folder(folder)
            for start in range(0, len(entries), CHUNK_FILES_MAX):
                part = entries[start : start + CHUNK_FILES_MAX]
                if len(chunk) + len(part) > CHUNK_FILES_MAX:
                    yield chunk
                    chunk = Chunk()
                for entry in self._unchanged(folder, part, remembered, chunk):
                    if entry.is_dir(follow_symlinks=False):
                        self._folder(entry.path, below, chunk)
                    else:
                        self._file(folder, entry, chunk)
            if remembered and not self.read_only:
                catalogue.forget(folder, list(remembered))
            folders.extend(reversed(below))
        yield chunk

    def _unchanged(
        self, folder: bytes, entries: list[os.DirEntry[bytes]], remembered: dict[bytes, Remembered], chunk: Chunk
    ) -> list[os.DirEntry[bytes]]:
        """Put remembered files that have not changed into `chunk`; return the other entries.

        This loop is what a rescan consists of, so it is written for speed: one `stat` and one lookup a file.
        """
        others = []
        known, skipped = chunk.known.append, chunk.skipped.append
        recall = remembered.pop
        by_name = self.kind == "image"
        unfit = {content.value: unfit_by_content(self.kind, content) for content in Content}
        for entry in entries:
            name = entry.name
            before = recall(name, None)
            if before is None or (by_name and unfit_by_name(self.kind, name)):
                others.append(entry)
                continue
            _, size_bytes, mtime_ns, digest, content = before
            try:
                now = entry.stat(follow_symlinks=False)
            except OSError:
                others.append(entry)
                continue
            if now.st_mtime_ns != mtime_ns or now.st_size != size_bytes or not stat.S_ISREG(now.st_mode):
                others.append(entry)
            elif reason := unfit[content]:
                skipped(Skipped(entry.path, reason))
            elif digest is None:
                others.append(entry)
            else:
                known(File(folder, name, size_bytes, mtime_ns, digest))
        return others

    def _folder(self, path: bytes, below: list[bytes], chunk: Chunk) -> None:
        if self.excluded and _identity(path) in self.excluded:
            chunk.skipped.append(Skipped(path, "Forge's own data"))
        else:
            below.append(path)

    def _file(self, folder: bytes, entry: os.DirEntry[bytes], chunk: Chunk) -> None:
        match self._unread(folder, entry):
            case File() as file:
                chunk.unread.append(file)
            case Failed() as failed:
                chunk.failed.append(failed)
            case str(reason):
                chunk.skipped.append(Skipped(entry.path, reason))

    def _unread(self, folder: bytes, entry: os.DirEntry[bytes]) -> File | Failed | str:
        if not entry.is_file(follow_symlinks=False):
            return "symbolic link" if entry.is_symlink() else "not a regular file"
        if reason := unfit_by_name(self.kind, entry.name):
            return reason
        try:
            now = entry.stat(follow_symlinks=False)
        except OSError as error:
            return Failed(entry.path, unreadable(error))
        return File(folder, entry.name, now.st_size, now.st_mtime_ns) if now.st_size else "empty"


def open_regular(path: bytes) -> int:
    """Open a file for reading without following a link; raise `OSError` also if it is not a regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a regular file any more")
    return descriptor


def _listing(folder: bytes) -> list[os.DirEntry[bytes]]:
    with os.scandir(folder) as entries:
        return list(entries)


def unreadable(error: OSError) -> str:
    """Return why a path could not be read."""
    return "vanished" if isinstance(error, FileNotFoundError) else f"unreadable: {error.strerror}"


def _identity(path: bytes) -> tuple[int, int] | None:
    try:
        folder = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return folder.st_dev, folder.st_ino
