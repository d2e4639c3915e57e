"""From a file of the walk to a content hash, opening the file at most once."""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from forge.client import BytesSource, DescriptorSource, Source
from forge.ingest.catalogue import Remembered
from forge.ingest.checksum import Checksum, read_checksum, write_checksum
from forge.ingest.content import HEAD_BYTES, Kind, content_of, unfit_by_content
from forge.ingest.digest import FileChanged, Read, Stopped, read_file, settled
from forge.ingest.mapped import MappedHasher
from forge.ingest.scan import Failed, File, Skipped, open_regular, unreadable


@dataclass(slots=True)
class Candidate:
    """A file that has a hash and may have to be uploaded.

    What was read stays at hand until `release`: the bytes of a small file, the open descriptor of a larger
    one. Neither is there for a file whose hash was cached: it was not opened.
    """

    file: File
    digest: bytes
    cached: bool
    small: bytes | None = None
    descriptor: int | None = None

    def source(self) -> Source | None:
        """Return the bytes that were hashed, None if the file was not opened."""
        if self.small is not None:
            return BytesSource(self.small)
        if self.descriptor is not None:
            return DescriptorSource(self.descriptor, self.file.size_bytes)
        return None

    @property
    def held_bytes(self) -> int:
        """Memory that `release` frees."""
        return len(self.small) if self.small is not None else 0

    def release(self) -> None:
        """Let go of what was read."""
        self.small = None
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


@dataclass(slots=True)
class Identified:
    """What one batch of files turned out to be, and what the catalogue should remember of them."""

    candidates: list[Candidate] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    remembered: list[tuple[bytes, Remembered]] = field(default_factory=list)
    attributes_refused: int = 0
    seen: int = 0

    def release(self) -> None:
        """Let go of everything that was read."""
        for candidate in self.candidates:
            candidate.release()


@dataclass(frozen=True, slots=True)
class Identify:
    """How to find hashes: for which kind, whether checksum attributes may be written, and until when."""

    kind: Kind
    write_attributes: bool = True
    stop: threading.Event = field(default_factory=threading.Event)
    mapped: MappedHasher = field(default_factory=MappedHasher)

    def batch(self, files: list[File]) -> Identified:
        """Hash `files`, or find their hashes in their attributes; blocks, so call it in a thread."""
        found = Identified()
        for file in files:
            if self.stop.is_set():
                break
            try:
                self._one(file, found)
            except Stopped:
                break
            except FileChanged:
                found.failed.append(Failed(file.path, "kept changing while it was read"))
            except OSError as error:
                found.failed.append(Failed(file.path, unreadable(error)))
        return found

    def again(self, path: bytes) -> Candidate:
        """Hash a file whatever the caches say, and keep it at hand; raise `OSError` or `FileChanged`."""
        descriptor = open_regular(path)
        with _closed_unless_kept(descriptor) as kept:
            read = read_file(descriptor)
            self._write(descriptor, read)
            return kept.candidate(path, read)

    def _one(self, file: File, found: Identified) -> None:
        path = file.path
        if checksum := read_checksum(path, file.size_bytes, file.mtime_ns):
            self._remember(found, file, checksum.content, bytes.fromhex(checksum.digest))
            if reason := unfit_by_content(self.kind, checksum.content):
                found.skipped.append(Skipped(path, reason))
            else:
                found.candidates.append(Candidate(file, bytes.fromhex(checksum.digest), cached=True))
            return
        descriptor = open_regular(path)
        with _closed_unless_kept(descriptor) as kept:
            now = settled(descriptor)
            content = content_of(os.pread(descriptor, HEAD_BYTES, 0))
            if reason := unfit_by_content(self.kind, content):
                found.skipped.append(Skipped(path, reason))
                seen = File(file.folder, file.name, now.st_size, now.st_mtime_ns)
                self._remember(found, seen, content, None)
                return
            read = read_file(descriptor, self.stop, self.mapped)
            if read.size_bytes == 0:
                found.skipped.append(Skipped(path, "empty"))
                return
            if self.write_attributes and not self._write(descriptor, read):
                found.attributes_refused += 1
            candidate = kept.candidate(path, read)
            self._remember(found, candidate.file, read.content, candidate.digest)
            found.candidates.append(candidate)

    def _write(self, descriptor: int, read: Read) -> bool:
        if not self.write_attributes:
            return False
        return write_checksum(descriptor, Checksum(read.digest, read.content, read.size_bytes, read.mtime_ns))

    @staticmethod
    def _remember(found: Identified, file: File, content: str, digest: bytes | None) -> None:
        row = Remembered(file.name, file.size_bytes, file.mtime_ns, digest, content)
        found.remembered.append((file.folder, row))


@dataclass(slots=True)
class _Kept:
    descriptor: int
    kept: bool = False

    def candidate(self, path: bytes, read: Read) -> Candidate:
        folder, name = os.path.split(path)
        digest = bytes.fromhex(read.digest)
        file = File(folder, name, read.size_bytes, read.mtime_ns, digest)
        if read.small is not None:
            return Candidate(file, digest, cached=False, small=read.small)
        self.kept = True
        return Candidate(file, digest, cached=False, descriptor=self.descriptor)


@contextlib.contextmanager
def _closed_unless_kept(descriptor: int) -> Iterator[_Kept]:
    kept = _Kept(descriptor)
    try:
        yield kept
    except BaseException:
        os.close(descriptor)
        raise
    if not kept.kept:
        os.close(descriptor)
