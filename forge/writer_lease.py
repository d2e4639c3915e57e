"""The writer lease of a node, as its settings want it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from events.objects.port import ObjectStore
from forge.datadir import DataDir
from forge.lease_place import LeasePlace
from forge.object_storage import EmbeddedStore, raw_store
from schemas.settings import Settings
from workers.lease.holder import Identity, Terms
from workers.lease.lease import WriterLease
from workers.lease.none import NoLease
from workers.lease.opening import lease_object
from workers.lease.stored import StoredLease, same_or_first


def terms(settings: Settings) -> Terms:
    """Return how long the lease lasts by the settings."""
    return Terms(settings.lease_duration_s, settings.lease_renew_s, settings.lease_margin_s)


@asynccontextmanager
async def writer_lease(
    settings: Settings,
    data: DataDir,
    embedded: EmbeddedStore | None = None,
    first_epoch: Callable[[int], Awaitable[int]] = same_or_first,
) -> AsyncIterator[WriterLease | None]:
    """Give the lease of a node on `data`, None if there is no object store; it is given back at the end.

    Nothing is acquired yet. `first_epoch` tells the epoch where no lease is stored, by the one held here last.
    """
    async with raw_store(settings, embedded) as opened:  # its own: what hangs elsewhere shall not keep it from renewals
        if opened is None:
            yield None
            return
        async with _lease(settings, LeasePlace(data.path), *opened, first_epoch) as lease:
            yield lease


def _lease(
    settings: Settings, place: LeasePlace, store: ObjectStore, name: str, first_epoch: Callable[[int], Awaitable[int]]
) -> WriterLease:
    if settings.lease_mode == "off":

        async def epoch_now() -> int:
            return await first_epoch((await place.load()).epoch)

        return NoLease(epoch_now)
    kept = terms(settings)
    opened = lease_object(store, settings.s3_prefix, name, settings.lease_mode, place, kept)
    identity = Identity(place, settings.node_id, lambda: datetime.now(UTC))
    return StoredLease(opened, identity, kept, first_epoch=first_epoch)
