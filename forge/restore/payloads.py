"""Payloads brought back from the archive: those that unfinished jobs need, or all."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from dataclasses import dataclass

from events.archive import Archive
from events.objects.port import LIST_MAX
from events.payload_archive import FETCHES_MAX, PayloadArchive
from events.payloads import PayloadStore
from projectors.projection import connect
from projectors.tasks import for_each
from projectors.vector.queries import unfinished_payloads
from schemas.archive import PAYLOADS, parse_payload_key
from schemas.ids import InvalidId
from schemas.settings import Settings

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Payloads:
    """How many payloads were brought, and how many are not to be had: their jobs wait until somebody uploads again."""

    fetched: int
    missing: int


async def fetch_payloads(archive: Archive, settings: Settings, *, everything: bool) -> Payloads:
    """Bring payloads that are not here; raise `StoreUnavailable`, or a `PayloadStoreError`. Again, it goes on."""
    store = PayloadStore(settings.blob_cache, settings.vector_temp_dir)
    source = PayloadArchive(store, archive)
    counts = {True: 0, False: 0}

    async def one(cid: str) -> None:
        counts[await source.fetch(cid)] += 1

    try:
        async for cids in _archived(archive) if everything else _unfinished(settings):
            here = await asyncio.to_thread(lambda wanted: {cid for cid in wanted if store.has(cid)}, cids)
            await for_each([cid for cid in dict.fromkeys(cids) if cid not in here], one, FETCHES_MAX)
    finally:
        await store.close()
    return Payloads(counts[True], counts[False])


async def _unfinished(settings: Settings) -> AsyncIterator[list[str]]:
    """Yield the payloads of jobs that are not done, a page at a time."""
    if not settings.vector_queue_db.exists():
        return
    after = 0
    while page := await asyncio.to_thread(_page, settings, after):
        yield [cid for _, cid in page]
        after = page[-1][0]


def _page(settings: Settings, after: int) -> list[tuple[int, str]]:
    with closing(connect(settings.vector_queue_db, readonly=True)) as db:
        return unfinished_payloads(db, after, PAGE)


async def _archived(archive: Archive) -> AsyncIterator[Iterable[str]]:
    """Yield every payload of the archive, a page at a time."""
    below = archive.key(PAYLOADS)
    folders = [f"{first:02x}" for first in range(256)]  # order across slashes is not what servers agree on
    for folder in folders:
        after = ""
        while True:
            page = await archive.store.list(f"{below}{folder}/", after=after)
            yield _cids(archive, [found.key for found in page])
            if len(page) < LIST_MAX:
                break
            after = page[-1].key


def _cids(archive: Archive, keys: Iterable[str]) -> list[str]:
    found = []
    for key in keys:
        try:
            found.append(parse_payload_key(key.removeprefix(archive.key(""))))
        except InvalidId:
            continue  # somebody else's object
    return found
