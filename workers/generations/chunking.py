"""Cut the copy of a projection into chunks of one size, and read them again."""

import os
from pathlib import Path
from threading import Event
from typing import NamedTuple

import apsw
from blake3 import blake3

_SIZES = ((16 << 20, 64 << 10), (256 << 20, 256 << 10), (8 << 30, 1 << 20))  # files up to so large, and their chunks
_LARGEST = 4 << 20


class Cut(NamedTuple):
    """A file as chunks: their hashes in order, and the hash of all of it."""

    chunk_bytes: int
    chunks: list[str]
    file: str
    size_bytes: int


def chunk_size(size_bytes: int, before: int | None = None) -> int:
    """Return how large the chunks of a file are: small ones for small changes, large ones for few requests.

    `before` is the size in the generation before, which is kept while it is not far off: else all is stored anew.
    """
    wanted = _wanted(size_bytes)
    return before if before is not None and wanted <= before <= _wanted(2 * size_bytes) else wanted


def _wanted(size_bytes: int) -> int:
    return next((chunk for limit, chunk in _SIZES if size_bytes <= limit), _LARGEST)


def cut(path: Path, before: int | None, stopping: Event) -> Cut:
    """Return the chunks of a file; `apsw.InterruptError` if told to stop."""
    size = path.stat().st_size
    chunk_bytes = chunk_size(size, before)
    whole, chunks = blake3(), []
    with path.open("rb") as file:
        while data := file.read(chunk_bytes):
            whole.update(data)
            chunks.append(blake3(data).hexdigest())
            if stopping.is_set():
                raise apsw.InterruptError("stopping")
    return Cut(chunk_bytes, chunks, whole.hexdigest(), size)


def read_chunk(path: Path, number: int, chunk_bytes: int) -> bytes:
    """Return one chunk of a file."""
    with path.open("rb") as file:
        return os.pread(file.fileno(), chunk_bytes, number * chunk_bytes)
