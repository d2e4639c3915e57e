"""What the store says of a lease, without a node and without changing anything."""

from datetime import UTC, datetime
from typing import Any

from events.objects.errors import CorruptObject, ObjectMissing
from events.objects.port import ObjectStore
from forge.archive_access import store_beside
from forge.datadir import read_runtime
from forge.lease_place import LeasePlace
from forge.object_storage import EMBEDDED_BUCKET, EmbeddedStore, raw_store
from schemas.settings import Settings
from schemas.writer_lease import WRITER, LeaseRecord, lease_key
from workers.lease.errors import LeaseUnreadable

RECORD_BYTES_MAX = 64 << 10


async def lease_status(settings: Settings, resource: str = WRITER) -> dict[str, Any] | None:
    """Return who holds the lease of `resource`, None if there is no object store.

    That of a node on this machine is asked while the node runs. Raise `StoreError`, and `LeaseUnreadable`.
    """
    async with raw_store(settings, _embedded(settings)) as opened:
        if opened is None:
            return None
        key = f"{settings.s3_prefix}/{lease_key(resource)}"
        found = await _read(opened.store, key)
        saved = await LeasePlace(settings.data_dir).load()
    mode = found[0].mode if found else saved.mode if saved.store == opened.name else None
    said: dict[str, Any] = {
        "bucket": settings.s3_bucket or EMBEDDED_BUCKET,
        "object_key": key,
        "resource": resource,
        "configured_mode": settings.lease_mode,
        "effective_mode": "off" if settings.lease_mode == "off" else mode,
        "found": found is not None,
    }
    return said | (_said(*found) if found else {})


def _said(record: LeaseRecord, tag: str | None) -> dict[str, Any]:
    left_s = (record.expires_at_utc - datetime.now(UTC)).total_seconds()
    return {
        "owner_id": record.owner_id,
        "lease_id": record.lease_id,
        "etag": tag,
        "issued_at_utc": record.issued_at_utc.isoformat(),
        "expires_at_utc": record.expires_at_utc.isoformat(),
        "seconds_until_expiry": int(left_s),
        "expired": left_s <= 0,
        "epoch": record.epoch,
        "node": record.node,
        "place": record.place,
    }


async def _read(store: ObjectStore, key: str) -> tuple[LeaseRecord, str | None] | None:
    try:
        found = await store.get(key)
        data, tag = found.data, found.tag
    except ObjectMissing:
        return None
    except CorruptObject:  # an older service stores it without our checksum
        data, tag = await store.get_range(key, 0, RECORD_BYTES_MAX), None
    try:
        return LeaseRecord.parse(data), tag
    except ValueError as error:
        raise LeaseUnreadable(f"{key} holds no lease: {error}") from error


def _embedded(settings: Settings) -> EmbeddedStore | None:
    runtime = read_runtime(settings.data_dir)
    return store_beside(settings, runtime) if runtime is not None else None
