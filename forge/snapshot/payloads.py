"""The payloads of this machine, with what a tree needs of them fetched from the archive."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import apsw

from events.payload_archive import FETCHES_MAX, PayloadArchive
from events.payloads import PayloadStore
from forge.snapshot.desk import Desk
from projectors.node import queries
from projectors.tasks import for_each
from schemas.ids import Cid


@asynccontextmanager
async def opened_payloads(desk: Desk, db: apsw.Connection, tree: Cid) -> AsyncIterator[PayloadStore]:
    """Open the payloads with those of the files of `tree` that are here, whole, or in the archive.

    What is damaged here is set aside, so that it is fetched, or kept by the next snapshot. Raise `StoreUnavailable` if
    some are not here, and the archive does not answer.
    """
    settings = desk.settings
    store = await asyncio.to_thread(PayloadStore, settings.blob_cache, settings.vector_temp_dir)
    try:
        wanted = await asyncio.to_thread(lambda: list(dict.fromkeys(files_of(db, tree))))
        if missing := [cid for cid in wanted if not await _whole(store, cid)]:
            await _fetch(desk, store, missing)
        yield store
    finally:
        await store.close()


async def _whole(store: PayloadStore, cid: Cid) -> bool:
    """Return whether a payload is here and is what its hash says; set aside what is not."""
    if not store.has(cid):
        return False
    if await store.verify(cid):
        return True
    await store.quarantine(cid)
    return False


async def _fetch(desk: Desk, store: PayloadStore, cids: list[Cid]) -> None:
    async with desk.archive() as archive:
        payloads = PayloadArchive(store, archive)

        async def fetch(cid: Cid) -> None:
            await payloads.fetch(cid)

        if archive is not None:
            await for_each(cids, fetch, FETCHES_MAX)


def files_of(db: apsw.Connection, tree: Cid) -> Iterator[Cid]:
    """Yield the content of every file of a tree, some of it repeatedly."""
    pending = [tree]
    while pending:
        for entry in queries.entries(db, pending.pop()):
            if entry.kind == "tree":
                pending.append(entry.target)
            elif entry.kind == "file":
                yield entry.target
