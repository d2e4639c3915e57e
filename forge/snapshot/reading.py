"""One entry of a folder as a snapshot has it: what it is, the hash of what it holds, and its tags."""

import contextlib
import errno
import os
import stat
import threading
from dataclasses import dataclass, field

from blake3 import blake3

from forge.ingest.checksum import Checksum, read_checksum, write_checksum
from forge.ingest.digest import FileChanged, read_file
from forge.ingest.mapped import MappedHasher
from forge.ingest.scan import open_regular
from projectors.node.file_mode import go_mode, mode_text
from schemas.node import EntryKind, TreeEntry

TAGS = "user.xdg.tags"
_TYPE_BITS_ONLY = ~0o7777
_NO_TAGS = frozenset({errno.ENODATA, errno.ENOENT, errno.EPERM, errno.ENOTSUP})
_REPLACED = frozenset({0, errno.ELOOP, errno.ENXIO})  # what opening says of a file that is a link, or no file, by now
_PASSED_OVER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True)
class Found:
    """An entry; `cached` says that a file was not read, because its hash was kept with it."""

    entry: TreeEntry
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads entries. `basic`: without modes, times and tags. May be used by several threads."""

    basic: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    mapped: MappedHasher = field(default_factory=MappedHasher)

    def read(self, folder: bytes, name: bytes, *, cached: bool = True) -> Found:
        """Return the entry `name` of `folder`, which is no folder itself; raise `OSError` or `FileChanged`.

        Unless `cached`, no hash that was kept with a file is believed.
        """
        path = os.path.join(folder, name)
        now = os.lstat(path)
        if stat.S_ISREG(now.st_mode):
            return self._file(path, name, now, cached)
        if stat.S_ISLNK(now.st_mode):
            link = os.readlink(path)
            target = blake3(link).hexdigest()
            return Found(self._entry(path, name, now, "symlink", target, size=len(link), link=link))
        mode = go_mode(now.st_mode & _TYPE_BITS_ONLY if self.basic else now.st_mode)
        text = f"{mode_text(mode)}:{now.st_size}:{0 if self.basic else now.st_mtime_ns}"
        return Found(self._entry(path, name, now, "special", blake3(text.encode()).hexdigest(), size=now.st_size))

    def folder(self, path: bytes, name: bytes, now: os.stat_result, target: str) -> TreeEntry:
        """Return the entry of a folder at `path` whose tree is `target`."""
        return self._entry(path, name, now, "tree", target, size=now.st_size)

    def _file(self, path: bytes, name: bytes, now: os.stat_result, cached: bool) -> Found:
        if cached and (kept := read_checksum(path, now.st_size, now.st_mtime_ns)):
            return Found(self._entry(path, name, now, "file", kept.digest, size=now.st_size), cached=True)
        descriptor = open_regular(path)
        try:
            read = read_file(descriptor, self.stop, self.mapped)
            write_checksum(descriptor, Checksum(read.digest, read.content, read.size_bytes, read.mtime_ns))
            now = os.fstat(descriptor)
            if (now.st_size, now.st_mtime_ns) != (read.size_bytes, read.mtime_ns):
                raise FileChanged
        finally:
            os.close(descriptor)
        return Found(self._entry(path, name, now, "file", read.digest, size=now.st_size))

    def _entry(
        self,
        path: bytes,
        name: bytes,
        now: os.stat_result,
        kind: EntryKind,
        target: str,
        *,
        size: int,
        link: bytes = b"",
    ) -> TreeEntry:
        if self.basic:
            return TreeEntry(name=name, kind=kind, target=target, size=size, link=link)
        mode, mtime_ns, tags = go_mode(now.st_mode), now.st_mtime_ns, read_tags(path)
        return TreeEntry(
            name=name, kind=kind, target=target, mode=mode, mtime_ns=mtime_ns, size=size, link=link, tags=tags
        )


def read_tags(path: bytes) -> tuple[str, ...]:
    """Return the tags that a file has, in order, each once."""
    try:
        raw = os.getxattr(path, TAGS, follow_symlinks=False)
    except OSError as error:
        if has_no_tags(error):
            return ()
        raise
    return parse_tags(raw.decode("utf-8", "replace"))


def has_no_tags(error: OSError) -> bool:
    """Say whether an error of reading tags means that there are none."""
    return error.errno in _NO_TAGS


def write_tags(path: bytes, tags: tuple[str, ...]) -> bool:
    """Give a file tags; False if its file system keeps none."""
    with contextlib.suppress(OSError):
        os.setxattr(path, TAGS, ",".join(tags).encode(), follow_symlinks=False)
        return True
    return False


def parse_tags(text: str) -> tuple[str, ...]:
    """Return the tags of a list that is separated by commas or semicolons."""
    return tuple(sorted({tag for part in text.replace(";", ",").split(",") if (tag := part.strip())}))


def why_passed_over(error: OSError | FileChanged) -> str | None:
    """Return why an entry is left out with a warning; None: the whole snapshot has to fail."""
    if isinstance(error, FileChanged) or error.errno in _REPLACED:
        return "file changed while it was read"
    if error.errno in _PASSED_OVER:
        return os.strerror(error.errno).lower()
    return None
