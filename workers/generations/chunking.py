"""Cut the copy of a projection into chunks of one size, hash its pages, and read both again."""

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import NamedTuple

import apsw
from blake3 import blake3

from workers.generations.page_table import HASH_BYTES, PageTable

CHUNKS_MIN = 4  # files of fewer chunks are stored as chunks alone
PAGES_MAX = 4 << 20  # and files of more pages: their hashes take 64 MiB then
_SIZES = ((16 << 20, 64 << 10), (256 << 20, 256 << 10), (8 << 30, 1 << 20))  # files up to so large, and their chunks
_LARGEST = 4 << 20


class Cut(NamedTuple):
    """A file as chunks: their hashes in order, and the hash of all of it; also those of its pages, if they count."""

    page_size: int
    chunk_bytes: int
    chunks: list[str]
    file: str
    size_bytes: int
    hashes: bytes


def chunk_size(size_bytes: int, before: int | None = None) -> int:
    """Return how large the chunks of a file are: small ones for small changes, large ones for few requests.

    `before` is the size in the generation before, which is kept while it is not far off: else all is stored anew.
    """
    wanted = _wanted(size_bytes)
    return before if before is not None and wanted <= before <= _wanted(2 * size_bytes) else wanted


def _wanted(size_bytes: int) -> int:
    return next((chunk for limit, chunk in _SIZES if size_bytes <= limit), _LARGEST)


def cut(path: Path, page_size: int, before: int | None, table: PageTable | None, stopping: Event) -> Cut:
    """Return the chunks of a file; `apsw.InterruptError` if told to stop.

    `before` is the size of chunks in the generation before, `table` what is known of its pages.
    """
    size = path.stat().st_size
    chunk_bytes = chunk_size(size, before)
    has_pages = CHUNKS_MIN * chunk_bytes <= size <= PAGES_MAX * page_size and size % page_size == 0
    known = table if table and (table.page_size, table.chunk_bytes) == (page_size, chunk_bytes) else None
    whole, chunks, hashes = blake3(), list[str](), list[bytes]()
    with path.open("rb") as file:
        while data := file.read(chunk_bytes):
            whole.update(data)
            chunks.append(blake3(data).hexdigest())
            if has_pages:
                hashes.append(_hashes(data, page_size, chunks, known))
            if stopping.is_set():
                raise apsw.InterruptError("stopping")
    return Cut(page_size, chunk_bytes, chunks, whole.hexdigest(), size, b"".join(hashes))


def _hashes(data: bytes, page_size: int, chunks: list[str], known: PageTable | None) -> bytes:
    """Return the hashes of the pages of the last chunk; those of one that did not change are known."""
    number = len(chunks) - 1
    if known and chunks[number : number + 1] == known.chunks[number : number + 1]:
        start = number * (known.chunk_bytes // page_size) * HASH_BYTES
        return known.hashes[start : start + len(data) // page_size * HASH_BYTES]
    pages = memoryview(data)
    return b"".join(blake3(pages[at : at + page_size]).digest(HASH_BYTES) for at in range(0, len(data), page_size))


def read_pages(path: Path, numbers: Sequence[int], page_size: int) -> list[bytes]:
    """Return some pages of a file, by their numbers from 1 on."""
    with path.open("rb") as file:
        return [os.pread(file.fileno(), page_size, (number - 1) * page_size) for number in numbers]


def read_chunk(path: Path, number: int, chunk_bytes: int) -> bytes:
    """Return one chunk of a file."""
    with path.open("rb") as file:
        return os.pread(file.fileno(), chunk_bytes, number * chunk_bytes)
