"""Which generations of a projection the archive has, and whether they belong to the archived history."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import structlog
from blake3 import blake3
from pydantic import ValidationError

from events.archive import Archive
from events.objects.errors import CorruptObject, ObjectMissing
from projectors.generations.errors import GenerationDamaged, GenerationError, GenerationMissing, OtherHistory
from schemas.damage import damage
from schemas.generation import (
    FORMAT_PATCHED,
    CurrentGeneration,
    GenerationKey,
    Manifest,
    current_key,
    generations_of,
)
from schemas.ids import InvalidId, PartitionId, Position

log = structlog.get_logger(__name__)


async def current(archive: Archive, projection: str) -> CurrentGeneration | None:
    """Return what the pointer of a projection says, None if it has none; raise `GenerationDamaged`."""
    key = archive.key(current_key(projection))
    try:
        with translated():
            pointer = CurrentGeneration.model_validate_json((await archive.store.get(key)).data)
    except GenerationMissing:
        return None
    except ValidationError as error:
        raise GenerationDamaged(f"{key} is no pointer to a generation: {damage(error)}") from error
    if pointer.projection != projection:
        raise GenerationDamaged(f"{key} is of {pointer.projection}")
    return pointer


async def latest(archive: Archive, projection: str) -> Manifest | None:
    """Return the current generation of a projection, None if it has none; raise `GenerationError`."""
    pointer = await current(archive, projection)
    return None if pointer is None else await manifest(archive, projection, pointer.at, pointer.manifest)


async def manifest(archive: Archive, projection: str, position: Position, cid: str | None = None) -> Manifest:
    """Return one manifest; raise `GenerationMissing`, or `GenerationDamaged` also if its hash is not `cid`."""
    key = archive.key(str(GenerationKey(projection, position)))
    with translated():
        data = (await archive.store.get(key)).data
    if cid not in (None, blake3(data).hexdigest()):
        raise GenerationDamaged(f"{key} is not the manifest that the pointer names")
    try:
        found = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise GenerationDamaged(f"{key} is no manifest: {damage(error)}") from error
    if (found.projection, found.position) != (projection, str(position)):
        raise GenerationDamaged(f"{key} is of {found.projection} at {found.position}")
    if found.format > FORMAT_PATCHED:
        raise GenerationDamaged(f"{key} has format {found.format}, of a newer Forge")
    if [bool(found.chunks), bool(found.parts), bool(found.base)].count(True) != 1:
        raise GenerationDamaged(f"{key} names no chunks, or names them twice")
    if len({found.format == FORMAT_PATCHED, bool(found.base), bool(found.patches)}) != 1:
        raise GenerationDamaged(f"{key} has patches without chunks below them, or the reverse")
    return found


async def positions(archive: Archive, projection: str) -> list[Position]:
    """Return where a projection has generations, newest first, also those to which the pointer has not come yet."""
    below, after, found = archive.key(generations_of(projection)), "", []
    while True:
        page = await archive.store.folders(below, after=after)
        for name in page.names:
            try:
                found.append(Position.parse(name))
            except InvalidId:
                continue
        if not page.next:
            return sorted(found, reverse=True)
        after = page.next


async def generations(
    archive: Archive, projection: str, until: Position | None = None, *, oldest_first: bool = False
) -> AsyncIterator[Manifest]:
    """Yield the generations of a projection that count, newest first, none after `until`; damaged ones are passed over.

    So are those of a writer that somebody else had taken over from. Without a readable pointer all count: `fetch`
    verifies whatever it is given.
    """
    try:
        pointer = await current(archive, projection)
    except GenerationDamaged as error:
        log.warning("generation pointer not usable", projection=projection, reason=str(error))
        pointer = None
    last = min(([pointer.at] if pointer else []) + ([until] if until else []), default=None)
    found_at = await positions(archive, projection)
    for position in reversed(found_at) if oldest_first else found_at:
        if last is not None and position > last:
            continue
        try:
            found = await manifest(archive, projection, position)
            if await archive.knows(PartitionId.parse(found.partition), position):
                yield found
        except GenerationMissing:
            continue  # it was removed, and the listing may know its folder for long
        except GenerationError as error:
            log.warning("generation not usable", projection=projection, position=str(position), reason=str(error))


async def check_history(archive: Archive, found: Manifest) -> None:
    """Raise `OtherHistory` unless the archived log has at its position the record that a generation ends with.

    Raise what reading the archive raises. Of what is older than the archive's beginning nobody can tell.
    """
    partition = PartitionId.parse(found.partition)
    cursor = await archive.cursor_at(partition, found.at)
    if cursor is None:
        raise OtherHistory(f"{found.key}: the archive of {partition} does not hold record {found.position}")
    if cursor.hash != found.hash:
        raise OtherHistory(f"{found.key}: record {found.position} of {partition} is {cursor.hash}, not {found.hash}")


@contextmanager
def translated() -> Iterator[None]:
    """Raise what the store says of an object as what it says of a generation; `StoreUnavailable` stays."""
    try:
        yield
    except ObjectMissing as error:
        raise GenerationMissing(f"the archive has no {error}") from error
    except CorruptObject as error:
        raise GenerationDamaged(str(error)) from error
