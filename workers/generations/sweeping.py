"""Remove the chunks that no generation names: mark all that are named, and sweep those that were unnamed for long.

While it runs no generation is made on this node (`Gate`). What a writer that was taken over from still sends is no
danger: a generation that lacks a chunk is refused when it is read, and an older one taken.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import structlog

from events.archive import Archive
from events.objects.port import LIST_MAX
from projectors.generations.errors import GenerationMissing
from projectors.generations.fetching import chunk_lists
from projectors.generations.reading import manifest
from projectors.tasks import for_each
from projectors.threads import Threads
from schemas.generation import CLEAR_PAGES, FOLDER, PAGES, GenerationKey, page_key
from schemas.ids import InvalidId, parse_cid
from workers.generations import metrics
from workers.generations.gate import Gate
from workers.generations.marks import Marks

AT_ONCE = 8
FOLDERS = (PAGES, CLEAR_PAGES)

log = structlog.get_logger(__name__)


class Swept(NamedTuple):
    """What a sweep found: chunks that are named, chunks that are not, and how many of these are gone now."""

    named: int
    unnamed: int
    removed: int


async def sweep(archive: Archive, marks_path: Path, gate: Gate, *, grace_s: float, now_s: float) -> Swept:
    """Remove the chunks that were unnamed in an earlier sweep, `grace_s` ago or more, and still are.

    A manifest that is there and cannot be read raises `GenerationError`, and nothing is removed: what it names is
    unknown. Memory is bounded by a manifest for each of a few; what was found is in a file at `marks_path`.
    """
    with Threads(1, "sweep") as threads:
        marks = await threads.run(Marks, marks_path)
        try:
            async with gate.alone():
                return await _sweep(archive, threads, marks, grace_s, now_s)
        finally:
            await threads.run(marks.close)


async def _sweep(archive: Archive, threads: Threads, marks: Marks, grace_s: float, now_s: float) -> Swept:
    async def mark(key: GenerationKey) -> None:
        try:
            found = await manifest(archive, key.projection, key.position)
        except GenerationMissing:
            return  # removed, and the listing does not know yet
        await threads.run(marks.name, found.beside_chunks)
        async for chunks in chunk_lists(archive, found):
            await threads.run(marks.name, [chunk.cid for chunk in chunks])

    async def remove(cid: str) -> None:
        for pages in FOLDERS:
            await archive.store.delete(archive.key(page_key(cid, pages)))
        metrics.removed.labels("chunk").inc()

    async for keys in manifest_keys(archive):
        await for_each(keys, mark, AT_ONCE)
    unnamed = 0
    for pages in FOLDERS:
        async for cids in _pages(archive, pages):
            unnamed += await threads.run(marks.look, cids, now_s)
    removed = 0
    while gone := await threads.run(marks.unnamed, now_s - grace_s, LIST_MAX):
        await for_each(gone, remove, AT_ONCE)
        await threads.run(marks.forget, gone)
        removed += len(gone)
    swept = Swept(await threads.run(marks.end, now_s), unnamed - removed, removed)
    log.info("chunks swept", named=swept.named, unnamed=swept.unnamed, removed=swept.removed)
    return swept


async def manifest_keys(archive: Archive) -> AsyncIterator[list[GenerationKey]]:
    """Yield the keys of all manifests, those of some projections at a time."""
    async for domains in _folders(archive, FOLDER):
        for domain in domains:
            async for names in _folders(archive, f"{FOLDER}{domain}/"):
                own = [key for name in names if (key := _key(f"{domain}/{name}"))]
                yield own
                for name in names:
                    if _key(f"{domain}/{name}") is None:
                        async for positions in _folders(archive, f"{FOLDER}{domain}/{name}/"):
                            yield [key for at in positions if (key := _key(f"{domain}/{name}/{at}"))]


def _key(folder: str) -> GenerationKey | None:
    try:
        return GenerationKey.parse(f"{FOLDER}{folder}/manifest.json")
    except InvalidId:
        return None


async def _folders(archive: Archive, below: str) -> AsyncIterator[list[str]]:
    after = ""
    while True:
        page = await archive.store.folders(archive.key(below), after=after)
        yield list(page.names)
        if not page.next:
            return
        after = page.next


async def _pages(archive: Archive, pages: str) -> AsyncIterator[list[str]]:
    """Yield the hashes of all chunks that are stored below `pages`, a page of a listing at a time."""
    async for folders in _folders(archive, pages):
        for folder in folders:
            below, after = archive.key(f"{pages}{folder}/"), ""
            while True:
                page = await archive.store.list(below, after=after)
                yield [cid for found in page if (cid := _cid(found.key.removeprefix(below)))]
                if len(page) < LIST_MAX:
                    break
                after = page[-1].key


def _cid(name: str) -> str | None:
    try:
        return parse_cid(name)
    except InvalidId:
        return None
