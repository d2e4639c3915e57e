"""BLAKE3 of an open file, read once."""

import mmap
import os
import threading
import time
from dataclasses import dataclass

from blake3 import blake3

from forge.ingest.content import HEAD_BYTES, Content, content_of
from forge.ingest.mapped import MAPPED_BYTES_MIN, MappedHasher

IN_MEMORY_BYTES_MAX = 1 << 20
# Read, not mapped, where a child process is not worth it (forge/ingest/mapped.py): a mapped file that
# somebody truncates kills the process. The buffer, one per thread, is aligned to pages: copying is faster so.
BUFFER_BYTES = 8 << 20
# A file system stamps times with the kernel's tick (at most 10 ms): content that is read within the tick of
# the last change could change again without a new time. So a file is left to rest this long first.
REST_NS = 20_000_000

_local = threading.local()


class Stopped(Exception):
    """Nobody wants the result any more."""


class FileChanged(Exception):
    """A file kept changing while it was read."""


@dataclass(frozen=True, slots=True)
class Read:
    """What reading a file gave; `small` holds the bytes themselves when they are few enough to keep."""

    digest: str
    content: Content
    size_bytes: int
    mtime_ns: int
    small: bytes | None


def read_file(descriptor: int, stop: threading.Event | None = None, mapped: MappedHasher | None = None) -> Read:
    """Hash an open regular file, a large one with `mapped` if that is given.

    Raises `FileChanged` if it changed meanwhile, twice in a row, and `Stopped` soon after `stop` is set.
    """
    stop = stop or threading.Event()
    for _ in range(2):
        before = settled(descriptor)
        read = _read(descriptor, before, stop, mapped)
        after = os.fstat(descriptor)
        if (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns) and read is not None:
            return read
    raise FileChanged


def settled(descriptor: int) -> os.stat_result:
    """Return the state of an open file that has rested: any later change will change its time too."""
    now = os.fstat(descriptor)
    age_ns = time.time_ns() - now.st_mtime_ns
    if 0 <= age_ns < REST_NS:
        time.sleep((REST_NS - age_ns) / 1e9)
        now = os.fstat(descriptor)
    return now


def _read(descriptor: int, stat: os.stat_result, stop: threading.Event, mapped: MappedHasher | None) -> Read | None:
    if stat.st_size <= IN_MEMORY_BYTES_MAX:
        content = os.pread(descriptor, stat.st_size + 1, 0)
        if len(content) != stat.st_size:
            return None
        digest = blake3(content).hexdigest()
        return Read(digest, content_of(content[:HEAD_BYTES]), stat.st_size, stat.st_mtime_ns, content)
    if mapped and stat.st_size >= MAPPED_BYTES_MIN and (raw := mapped.digest(descriptor, stat.st_size, stop)):
        head = content_of(os.pread(descriptor, HEAD_BYTES, 0))
        return Read(raw.hex(), head, stat.st_size, stat.st_mtime_ns, None)
    buffer = _buffer()
    hasher = blake3(max_threads=blake3.AUTO)
    offset = 0
    kind = Content.BINARY
    while count := os.preadv(descriptor, [buffer], offset):
        if offset == 0:
            kind = content_of(bytes(buffer[:HEAD_BYTES]))
        hasher.update(buffer[:count])
        offset += count
        if stop.is_set():
            raise Stopped
    if offset != stat.st_size:
        return None
    return Read(hasher.hexdigest(), kind, stat.st_size, stat.st_mtime_ns, None)


def _buffer() -> memoryview:
    buffer: memoryview | None = getattr(_local, "buffer", None)
    if buffer is None:
        buffer = _local.buffer = memoryview(mmap.mmap(-1, BUFFER_BYTES))
    return buffer
