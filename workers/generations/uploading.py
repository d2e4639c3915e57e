"""Store the chunks of a generation that the archive lacks, and mend those that it lost."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import structlog

from events.archive import Archive
from events.objects.errors import PreconditionFailed
from events.objects.port import checksum
from projectors.generations.chunks import pack, parts_of, unpack
from projectors.generations.errors import GenerationError
from projectors.generations.fetching import chunk_lists
from projectors.generations.reading import translated
from projectors.tasks import for_each
from schemas.generation import CHUNKS_IN_MANIFEST_MAX, PAGES, Manifest, page_key
from workers.generations import metrics
from workers.generations.chunking import Cut, read_chunk

AT_ONCE = 8  # with chunks of 4 MiB, 64 MiB of memory with what they are packed to

log = structlog.get_logger(__name__)


async def upload(
    archive: Archive, path: Path, cut: Cut, before: Manifest | None, pages: str = PAGES
) -> tuple[list[str], list[str]]:
    """Store what the generation `before` does not name below `pages`; return chunks and parts for the manifest.

    What an earlier attempt stored is found by trying. Raise what the store raises.
    """
    known = await _names(archive, before if before and before.pages == pages else None)
    numbers = {cid: number for number, cid in enumerate(cut.chunks) if cid not in known}

    async def store(item: tuple[str, int]) -> None:
        cid, number = item
        data = await asyncio.to_thread(read_chunk, path, number, cut.chunk_bytes)
        await _store(archive, page_key(cid, pages), data)

    await for_each(numbers.items(), store, AT_ONCE)
    metrics.chunks.labels("known").inc(len(set(cut.chunks)) - len(numbers))
    if len(cut.chunks) <= CHUNKS_IN_MANIFEST_MAX:
        return cut.chunks, []
    parts = list(parts_of(cut.chunks))
    names = [checksum(part) for part in parts]
    unknown = [(cid, part) for cid, part in zip(names, parts, strict=True) if cid not in known]
    await for_each(unknown, lambda one: _store(archive, page_key(one[0], pages), one[1]), AT_ONCE)
    return [], names


async def _names(archive: Archive, before: Manifest | None) -> set[str]:
    """Return the chunks and parts that a generation names; none if its parts cannot be read."""
    if before is None:
        return set()
    known = set(before.parts)
    try:
        async for chunks in chunk_lists(archive, before):
            known.update(chunk.cid for chunk in chunks)
    except GenerationError as error:
        log.warning("generation before not readable", generation=str(before.key), reason=str(error))
        return set()
    return known


async def _store(archive: Archive, key: str, data: bytes) -> None:
    packed = await asyncio.to_thread(pack, data)
    try:
        await archive.store.create(archive.key(key), packed)
    except PreconditionFailed:
        metrics.chunks.labels("there").inc()
    else:
        metrics.chunks.labels("stored").inc()
        metrics.stored_bytes.inc(len(packed))


async def mend(archive: Archive, path: Path, cut: Cut, pages: str = PAGES) -> int:
    """Look at every chunk of a file, store again what is missing or damaged, and return how many that were."""
    mended = 0

    async def look(item: tuple[str, bytes | int]) -> None:
        nonlocal mended
        cid, source = item
        data = (
            source if isinstance(source, bytes) else await asyncio.to_thread(read_chunk, path, source, cut.chunk_bytes)
        )
        key = page_key(cid, pages)
        try:
            with translated():
                found = await archive.store.get(archive.key(key))
            await asyncio.to_thread(unpack, found.data, cid, len(data))
        except GenerationError as error:
            log.error("chunk stored again", cid=cid, reason=str(error))
            mended += 1
            await archive.store.delete(archive.key(key))
            await _store(archive, key, data)

    parts = parts_of(cut.chunks) if len(cut.chunks) > CHUNKS_IN_MANIFEST_MAX else ()
    everything: Iterable[tuple[str, bytes | int]] = [
        *{cid: number for number, cid in enumerate(cut.chunks)}.items(),
        *((checksum(part), part) for part in parts),
    ]
    await for_each(everything, look, AT_ONCE)
    return mended
