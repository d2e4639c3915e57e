"""Move the pointer of a projection to its newest generation: by compare-and-swap, never backwards."""

from blake3 import blake3
from pydantic import ValidationError

from events.archive import Archive
from events.objects.errors import CorruptObject, ObjectMissing, PreconditionFailed, StoreUnavailable
from schemas.generation import CurrentGeneration, Manifest, current_key
from schemas.ids import Position
from schemas.instants import now

TRIES_MAX = 5


def pointer_to(manifest: Manifest, data: bytes, *, verified: bool, node: str) -> CurrentGeneration:
    """Return the pointer to a manifest whose bytes are `data`."""
    return CurrentGeneration(
        projection=manifest.projection,
        position=manifest.position,
        manifest=blake3(data).hexdigest(),
        size_bytes=manifest.size_bytes,
        verified=verified,
        verified_position=manifest.position if verified else None,
        time=manifest.time,
        moved_at=now(),
        node=node,
    )


async def move(archive: Archive, pointer: CurrentGeneration) -> CurrentGeneration:
    """Make `pointer` the current one unless there is a later one; return the one that is current then.

    A pointer that cannot be read is replaced: what it named is found by a listing.
    """
    store, key = archive.store, archive.key(current_key(pointer.projection))
    for _ in range(TRIES_MAX):
        try:
            found = await store.get(key)
        except ObjectMissing:
            try:
                await store.create(key, pointer.model_dump_json().encode())
            except PreconditionFailed:
                continue
            return pointer
        except CorruptObject:
            await store.delete(key)
            continue
        try:
            there = CurrentGeneration.model_validate_json(found.data)
        except ValidationError:
            there = None
        if there is not None:
            if there.at > pointer.at:
                return there
            pointer = _keeping_verified(pointer, there)
            if there.manifest == pointer.manifest and there.verified >= pointer.verified:
                return there
        try:
            await store.swap(key, pointer.model_dump_json().encode(), found.tag)
        except PreconditionFailed:
            continue
        return pointer
    raise StoreUnavailable(f"{key} is moved by others all the time")


def _keeping_verified(pointer: CurrentGeneration, there: CurrentGeneration) -> CurrentGeneration:
    """Return `pointer` with the newest position that was verified."""
    known = [at for at in (pointer.verified_position, there.verified_position) if at is not None]
    newest = max(known, key=Position.parse, default=None)
    return pointer.model_copy(update={"verified_position": newest})
