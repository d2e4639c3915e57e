"""A walk over a folder that gives each tree once everything below it is known."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from forge.ingest.digest import FileChanged
from forge.snapshot.reading import Found, Reader, why_passed_over
from projectors.node.parts import parts_of
from schemas.node import TreeEntry, TreePart
from schemas.os_text import shown

READ_AT_ONCE = 256
WARNINGS_SHOWN = 5

Keep = Callable[[bytes, str], Awaitable[None]]
"""Keeps the bytes of the file at a path, whose hash is known; raises `OSError` or `FileChanged`."""


class SnapshotFailed(Exception):
    """A snapshot cannot be taken; `path` is what could not be read."""

    def __init__(self, path: bytes, why: str) -> None:
        super().__init__(f"{shown(path)}: {why}")
        self.path = path
        self.why = why


@dataclass(slots=True)
class Tally:
    """What a walk has seen. `samples` are the first few of its warnings."""

    trees: int = 0
    files: int = 0
    symlinks: int = 0
    specials: int = 0
    cached: int = 0
    file_bytes: int = 0
    warnings: int = 0
    samples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Folder:
    path: bytes
    name: bytes
    now: os.stat_result
    entries: list[TreeEntry]
    below: list[bytes]


@dataclass(slots=True)
class Walk:
    """Reads `root` with all below it. `excluded` are left out, each as device and inode.

    Not `strict`: what cannot be read is left out, with a warning; a root that cannot be read fails in any case.
    """

    root: bytes
    reader: Reader
    threads: int
    strict: bool = False
    excluded: frozenset[tuple[int, int]] = frozenset()
    keep: Keep | None = None
    tally: Tally = field(default_factory=Tally)

    async def trees(self) -> AsyncIterator[TreePart]:
        """Yield the parts of every tree, those below before those above; the root is the last."""
        with ThreadPoolExecutor(self.threads, "snapshot") as pool:
            try:
                opened = [await self._open(pool, self.root, b"")]
                while opened:
                    folder = opened[-1]
                    if folder.below:
                        await self._descend(pool, opened, folder.below.pop())
                        continue
                    opened.pop()
                    self.tally.trees += 1
                    for part in parts_of(folder.entries):
                        yield part
                    if opened:
                        opened[-1].entries.append(self.reader.folder(folder.path, folder.name, folder.now, part.hash))
            finally:
                self.reader.stop.set()
                self.reader.mapped.close()

    async def _descend(self, pool: ThreadPoolExecutor, opened: list[_Folder], name: bytes) -> None:
        path = os.path.join(opened[-1].path, name)
        try:
            opened.append(await self._open(pool, path, name))
        except (OSError, FileChanged) as error:
            self._pass_over(path, error)

    async def _open(self, pool: ThreadPoolExecutor, path: bytes, name: bytes) -> _Folder:
        loop = asyncio.get_running_loop()
        now, others, below = await loop.run_in_executor(pool, self._list, path)
        entries: list[TreeEntry] = []
        for start in range(0, len(others), READ_AT_ONCE):
            names = others[start : start + READ_AT_ONCE]
            reading = [loop.run_in_executor(pool, self.reader.read, path, one) for one in names]
            found = await asyncio.gather(*reading, return_exceptions=True)
            entries += await self._taken(path, names, found)
        return _Folder(path, name, now, entries, below)

    def _list(self, path: bytes) -> tuple[os.stat_result, list[bytes], list[bytes]]:
        """Return the state of a folder, the names of its entries, and those of the folders in it."""
        now = os.stat(path, follow_symlinks=path == self.root)
        if not stat.S_ISDIR(now.st_mode):
            raise NotADirectoryError(20, "Not a directory", path)
        others: list[bytes] = []
        below: list[bytes] = []
        with os.scandir(path) as found:
            for entry in found:
                if self.excluded and _identity(entry) in self.excluded:
                    continue
                (below if entry.is_dir(follow_symlinks=False) else others).append(entry.name)
        return now, sorted(others), sorted(below, reverse=True)

    async def _taken(self, folder: bytes, names: list[bytes], found: list[Found | BaseException]) -> list[TreeEntry]:
        """Return the entries that could be read and, if that is wanted, kept."""
        kept = await asyncio.gather(*(self._kept(folder, one) for one in found), return_exceptions=True)
        entries = []
        for name, one in zip(names, kept, strict=True):
            if isinstance(one, OSError | FileChanged):
                self._pass_over(os.path.join(folder, name), one)
            elif isinstance(one, BaseException):
                raise one
            else:
                self._count(one)
                entries.append(one.entry)
        return entries

    async def _kept(self, folder: bytes, found: Found | BaseException) -> Found:
        """Keep the bytes of a file if that is wanted; return what it is."""
        if isinstance(found, BaseException):
            raise found
        if self.keep is None or found.entry.kind != "file":
            return found
        path = os.path.join(folder, found.entry.name)
        try:
            await self.keep(path, found.entry.target)
        except FileChanged:
            if not found.cached:
                raise
            # Its time is as it was, and its bytes are not: the hash that was kept with it is of others.
            found = await asyncio.to_thread(self.reader.read, folder, found.entry.name, cached=False)
            await self.keep(path, found.entry.target)
        return found

    def _count(self, found: Found) -> None:
        match found.entry.kind:
            case "file":
                self.tally.files += 1
                self.tally.cached += found.cached
                self.tally.file_bytes += found.entry.size
            case "symlink":
                self.tally.symlinks += 1
            case _:
                self.tally.specials += 1

    def _pass_over(self, path: bytes, error: OSError | FileChanged) -> None:
        why = why_passed_over(error)
        if why is None or self.strict:
            raise SnapshotFailed(path, why or str(error)) from error
        self.tally.warnings += 1
        if len(self.tally.samples) < WARNINGS_SHOWN:
            self.tally.samples.append(f"{shown(path)}: {why}")


def _identity(entry: os.DirEntry[bytes]) -> tuple[int, int] | None:
    try:
        now = entry.stat(follow_symlinks=False)
    except OSError:
        return None
    return now.st_dev, now.st_ino
