"""Fetch a generation into a file, every byte of it verified."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from threading import Event
from typing import NamedTuple

import apsw
from blake3 import blake3

from events.archive import Archive
from projectors.copying import examine
from projectors.generations.chunks import HASH_BYTES, chunks_in, unpack
from projectors.generations.errors import GenerationDamaged
from projectors.generations.patches import pages_in, patch_bytes_max
from projectors.generations.reading import translated
from projectors.projection import remove_database
from projectors.tasks import for_each
from projectors.threads import Threads
from schemas.generation import PART_CHUNKS, Manifest, page_key

AT_ONCE = 12
"""Chunks or patches that are on their way at the same time: so many times their size is what memory has to hold."""
WRITERS = 4  # threads that unpack and write them
READ_BYTES = 1 << 20


class Chunk(NamedTuple):
    """One chunk of a file, where it belongs, and how large it is at most."""

    cid: str
    start: int
    bytes_max: int


async def fetch(archive: Archive, manifest: Manifest, path: Path, *, thorough: bool = True) -> None:
    """Make the file of a generation at `path`, where none may be. It is not synced: sync it before it counts.

    Raise `GenerationError` if it cannot be exactly that; nothing is left at `path` then. Not `thorough`: the content
    is not read to check it once more; the hash of the whole file says that it is what was checked when it was copied.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with Threads(min(WRITERS, manifest.chunk_count), "generation") as threads:
            try:
                await _write_all(archive, manifest, descriptor, threads)
            finally:
                os.close(descriptor)  # no thread writes there any more: the number is given to another file next
            stopping = Event()
            await threads.run(check_file, manifest, path, stopping, thorough, interrupt=stopping.set)
    except BaseException:
        await asyncio.to_thread(remove_database, path)
        raise


async def _write_all(archive: Archive, manifest: Manifest, descriptor: int, threads: Threads) -> None:
    """Write chunks and patches. Whatever ends this, `threads` have ended what they did for it."""

    async def place(chunk: Chunk) -> None:
        with translated():
            found = await archive.store.get(archive.key(page_key(chunk.cid, manifest.pages)))
        await threads.run(_write, chunk, found.data, descriptor)

    async for chunks in chunk_lists(archive, manifest):
        await for_each(chunks, place, AT_ONCE)
    await _patch(archive, manifest, descriptor, threads)


async def _patch(archive: Archive, manifest: Manifest, descriptor: int, threads: Threads) -> None:
    """Write the patches of a generation over its chunks: fetched some at a time, written one after the other."""
    if not manifest.patches:
        return
    packed: dict[str, bytes] = {}

    async def get(cid: str) -> None:
        with translated():
            packed[cid] = (await archive.store.get(archive.key(page_key(cid, manifest.pages)))).data

    for start in range(0, len(manifest.patches), AT_ONCE):
        cids = manifest.patches[start : start + AT_ONCE]
        await for_each(cids, get, AT_ONCE)
        await threads.run(_write_patches, manifest, [(cid, packed[cid]) for cid in cids], descriptor)
        packed.clear()
    await threads.run(os.ftruncate, descriptor, manifest.size_bytes)


def _write_patches(manifest: Manifest, patches: Sequence[tuple[str, bytes]], descriptor: int) -> None:
    size, limit = manifest.page_size, patch_bytes_max(manifest.page_size)
    for cid, packed in patches:
        for number, page in pages_in(unpack(packed, cid, limit), size):
            if (at := (number - 1) * size) < manifest.size_bytes:  # the file may have become shorter since
                _write_at(descriptor, page, at)


def _write(chunk: Chunk, packed: bytes, descriptor: int) -> None:
    _write_at(descriptor, memoryview(unpack(packed, chunk.cid, chunk.bytes_max)), chunk.start)


def _write_at(descriptor: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, at)
        data, at = data[written:], at + written


async def chunk_lists(archive: Archive, manifest: Manifest) -> AsyncIterator[list[Chunk]]:
    """Yield all chunks of a generation in the order of its file, as many at a time as memory should hold.

    Raise `GenerationError` if their number is not what the size of the file asks for.
    """
    count, place = manifest.chunk_count, 0
    if manifest.chunks:
        if len(manifest.chunks) != count:
            raise GenerationDamaged(f"{manifest.key} names {len(manifest.chunks)} chunks, not {count}")
        yield _placed(manifest, manifest.chunks, 0)
        return
    parts = manifest.base or manifest.parts
    if len(parts) != -(-count // PART_CHUNKS):
        raise GenerationDamaged(f"{manifest.key} has {len(parts)} parts for {count} chunks")
    for cid in parts:
        wanted = min(PART_CHUNKS, count - place)
        with translated():
            found = await archive.store.get(archive.key(page_key(cid, manifest.pages)))
        yield _placed(manifest, chunks_in(unpack(found.data, cid, wanted * HASH_BYTES), wanted), place)
        place += wanted


def _placed(manifest: Manifest, cids: list[str], first: int) -> list[Chunk]:
    size = manifest.chunk_bytes
    whole = manifest.chunk_count * size if manifest.patches else manifest.size_bytes
    return [Chunk(cid, n * size, min(size, whole - n * size)) for n, cid in enumerate(cids, first)]


def check_file(manifest: Manifest, path: Path, stopping: Event, thorough: bool = True) -> None:
    """Raise `GenerationDamaged` unless `path` is the file of a generation; `apsw.InterruptError` if told to."""
    if (size := path.stat().st_size) != manifest.size_bytes:
        raise GenerationDamaged(f"{manifest.key} has {size} bytes, not {manifest.size_bytes}")
    if file_hash(path, stopping) != manifest.file:
        raise GenerationDamaged(f"{manifest.key}: the hash of the whole file is another")
    try:
        digests = thorough and manifest.digest is not None
        found = examine(path, stopping, digests=digests, check="integrity_check" if thorough else None)
    except apsw.InterruptError:
        raise
    except apsw.Error as error:
        raise GenerationDamaged(f"{manifest.key} is not a sound file: {error}") from error
    told = (manifest.partition, manifest.position, manifest.hash, manifest.version)
    holds = (found.partition, str(found.cursor.position), found.cursor.hash, found.version)
    if holds != told:
        raise GenerationDamaged(f"{manifest.key} says {told}, but its file holds {holds}")
    if found.digest not in (None, manifest.digest):
        raise GenerationDamaged(f"{manifest.key}: its content has another digest")


def file_hash(path: Path, stopping: Event) -> str:
    """Return the BLAKE3 of a file; `apsw.InterruptError` if told to stop."""
    hasher = blake3()
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            hasher.update(data)
            if stopping.is_set():
                raise apsw.InterruptError("stopping")
    return hasher.hexdigest()
