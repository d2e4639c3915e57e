"""Store what of a generation the archive lacks, and mend chunks that it lost."""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from events.archive import Archive
from events.objects.errors import PreconditionFailed
from events.objects.port import checksum
from projectors.generations.chunks import pack, parts_of, unpack
from projectors.generations.errors import GenerationError
from projectors.generations.fetching import chunk_lists
from projectors.generations.patches import pages_max, patch_of
from projectors.generations.reading import translated
from projectors.tasks import for_each
from schemas.generation import CHUNKS_IN_MANIFEST_MAX, PAGES, Manifest, page_key
from workers.generations import metrics
from workers.generations.chunking import Cut, read_chunk, read_pages
from workers.generations.page_table import Numbers, Patch
from workers.generations.planning import Plan

AT_ONCE = 8  # with chunks of 4 MiB, 64 MiB of memory with what they are packed to

log = structlog.get_logger(__name__)


class Uploaded(NamedTuple):
    """What a manifest names."""

    chunks: Sequence[str]
    parts: Sequence[str]
    patches: Sequence[Patch]


class Upload:
    """Stores the chunks, patches and lists of one generation below `pages`, and counts what that took."""

    def __init__(self, archive: Archive, path: Path, pages: str = PAGES) -> None:
        self._archive = archive
        self._path = path
        self._pages = pages
        self.stored_bytes = 0

    async def run(self, cut: Cut, plan: Plan, before: Manifest | None) -> Uploaded:
        """Store what the generation `before` does not name. What an earlier attempt stored is found by trying.

        Raise what the store raises.
        """

        async def chunk(number: int) -> None:
            await self._store(await self._read(cut, number))

        async def part(data: bytes) -> None:
            await self._store(data)

        known = await _names(self._archive, before if before and before.pages == self._pages else None)
        numbers = {cid: number for number, cid in enumerate(plan.chunks) if cid not in known}
        await for_each(numbers.values(), chunk, AT_ONCE)
        metrics.chunks.labels("known").inc(len(set(plan.chunks)) - len(numbers))
        patches = [*plan.kept, *await self._patches(cut, plan.pages)]
        if len(plan.chunks) <= CHUNKS_IN_MANIFEST_MAX and not patches:
            return Uploaded(plan.chunks, [], [])
        parts = list(parts_of(plan.chunks))
        names = [checksum(part) for part in parts]
        unknown = [part for cid, part in zip(names, parts, strict=True) if cid not in known]
        await for_each(unknown, part, AT_ONCE)
        return Uploaded([], names, patches)

    async def mend(self, cut: Cut) -> int:
        """Look at every chunk of a file, store again what is missing or damaged, and return how many that were."""
        mended = 0

        async def look(item: tuple[str, bytes | int]) -> None:
            nonlocal mended
            cid, source = item
            data = source if isinstance(source, bytes) else await self._read(cut, source)
            key = self._archive.key(page_key(cid, self._pages))
            try:
                with translated():
                    found = await self._archive.store.get(key)
                await asyncio.to_thread(unpack, found.data, cid, len(data))
            except GenerationError as error:
                log.error("chunk stored again", cid=cid, reason=str(error))
                mended += 1
                await self._archive.store.delete(key)
                await self._store(data)

        parts = parts_of(cut.chunks) if len(cut.chunks) > CHUNKS_IN_MANIFEST_MAX else ()
        everything: Iterable[tuple[str, bytes | int]] = [
            *{cid: number for number, cid in enumerate(cut.chunks)}.items(),
            *((checksum(part), part) for part in parts),
        ]
        await for_each(everything, look, AT_ONCE)
        return mended

    async def _read(self, cut: Cut, number: int) -> bytes:
        return await asyncio.to_thread(read_chunk, self._path, number, cut.chunk_bytes)

    async def _patches(self, cut: Cut, pages: Numbers) -> list[Patch]:
        size = pages_max(cut.page_size)
        patches: dict[int, Patch] = {}

        async def store(start: int) -> None:
            numbers = pages[start : start + size]
            data = await asyncio.to_thread(_patch, self._path, numbers, cut.page_size)
            patches[start] = Patch(await self._store(data), numbers)

        await for_each(range(0, len(pages), size), store, AT_ONCE)
        metrics.patched_pages.inc(len(pages))
        return [patches[start] for start in sorted(patches)]

    async def _store(self, data: bytes) -> str:
        cid = checksum(data)
        stored_bytes = await _store(self._archive, page_key(cid, self._pages), data)
        self.stored_bytes += stored_bytes
        return cid


def _patch(path: Path, numbers: Numbers, page_size: int) -> bytes:
    listed = numbers.tolist()
    return patch_of(listed, read_pages(path, listed, page_size))


async def _names(archive: Archive, before: Manifest | None) -> set[str]:
    """Return the chunks and parts that a generation names; none if its parts cannot be read."""
    if before is None:
        return set()
    known = set(before.beside_chunks)
    try:
        async for chunks in chunk_lists(archive, before):
            known.update(chunk.cid for chunk in chunks)
    except GenerationError as error:
        log.warning("generation before not readable", generation=str(before.key), reason=str(error))
        return set()
    return known


async def _store(archive: Archive, key: str, data: bytes) -> int:
    """Store an object unless it is there; return how many bytes that took."""
    packed = await asyncio.to_thread(pack, data)
    try:
        await archive.store.create(archive.key(key), packed)
    except PreconditionFailed:
        metrics.chunks.labels("there").inc()
        return 0
    metrics.chunks.labels("stored").inc()
    metrics.stored_bytes.inc(len(packed))
    return len(packed)
