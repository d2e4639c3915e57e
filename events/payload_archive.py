"""Payloads in the archive: stored there once, and brought back to a node that has lost them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
from prometheus_client import Counter

from events.archive import Archive
from events.objects.errors import CorruptObject, ObjectMissing, PreconditionFailed, StoreUnavailable
from events.payloads import PayloadStore
from schemas.archive import payload_key

FETCHES_MAX = 2  # at the same time; each holds one payload in memory

FETCHED = Counter(
    "forge_payloads_fetched_total", "Payloads that were not here, by what came of asking for them.", ["outcome"]
)
log = structlog.get_logger(__name__)


async def store_payload(archive: Archive, cid: str, path: Path) -> bool:
    """Store a payload unless it is there; return whether it had to be.

    Raise `StoreUnavailable`; `CorruptObject` or `OSError` if the file does not hold what its name says.
    """
    key = archive.key(payload_key(cid))
    if await archive.store.size(key) is not None:
        return False
    try:
        await archive.store.create_file(key, path, cid)
    except PreconditionFailed as error:
        if await archive.store.size(key) is None:
            raise StoreUnavailable(f"{key} was said to exist, but does not") from error
        return False
    return True


class PayloadArchive:
    """The payloads of one node and their archive, if there is one."""

    def __init__(self, payloads: PayloadStore, archive: Archive | None) -> None:
        self._payloads = payloads
        self._archive = archive
        self._slots = asyncio.Semaphore(FETCHES_MAX)

    async def fetch(self, cid: str) -> bool:
        """Bring a payload here, verified and durable; return whether it was to be had.

        Raise `StoreUnavailable` while nobody can tell, or a `PayloadStoreError`.
        """
        if self._archive is None:
            return False
        async with self._slots:
            outcome = await self._fetch(self._archive, cid)
        FETCHED.labels(outcome).inc()
        return outcome == "fetched"

    async def _fetch(self, archive: Archive, cid: str) -> str:
        key = archive.key(payload_key(cid))
        try:
            data = (await archive.store.get(key)).data
        except ObjectMissing:
            return "missing"
        except CorruptObject as error:
            log.error("archived payload is damaged", cid=cid, reason=str(error))
            return "damaged"
        staged = await self._payloads.stage(_once(data), bytes_max=len(data))
        if staged.cid != cid:
            await self._payloads.discard(staged)
            log.error("archived payload is damaged", cid=cid, reason=f"its content is {staged.cid}")
            return "damaged"
        await self._payloads.keep(staged)
        return "fetched"

    async def store(self, cid: str) -> None:
        """Have a payload in the archive when this returns; raise what `store_payload` raises."""
        if self._archive is not None:
            await store_payload(self._archive, cid, self._payloads.path(cid))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
