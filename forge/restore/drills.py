"""The last drill of each projection, as it is kept in the archive."""

from collections.abc import AsyncIterator

from pydantic import ValidationError

from events.archive import Archive
from events.objects.errors import CorruptObject, ObjectMissing
from events.objects.port import LIST_MAX
from schemas.drill import FOLDER, DrillResult, drill_key, parse_drill_key
from schemas.ids import InvalidId


async def keep(archive: Archive, result: DrillResult) -> None:
    """Remember a drill in the place of the one before; raise what the store raises."""
    await archive.store.put(archive.key(drill_key(result.projection)), result.model_dump_json().encode())


async def last(archive: Archive, projection: str) -> DrillResult | None:
    """Return the last drill of a projection, None if there is none that can be read; raise `StoreUnavailable`."""
    try:
        found = await archive.store.get(archive.key(drill_key(projection)))
        return DrillResult.model_validate_json(found.data)
    except (ObjectMissing, CorruptObject, ValidationError):
        return None


async def drilled(archive: Archive) -> AsyncIterator[str]:
    """Yield the projections that were drilled at some time; raise what the store raises."""
    below, after = archive.key(FOLDER), ""
    while True:
        page = await archive.store.list(below, after=after)
        for found in page:
            try:
                yield parse_drill_key(found.key.removeprefix(archive.key("")))
            except InvalidId:
                continue  # somebody else's object
        if len(page) < LIST_MAX:
            return
        after = page[-1].key
