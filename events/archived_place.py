"""How far a partition is archived: what the store says of it, and what it holds behind that."""

from contextlib import aclosing
from typing import NamedTuple

from pydantic import ValidationError

from events.archive import EVERYTHING, Archive
from events.cursor import Cursor
from events.errors import LogDamaged
from events.objects.errors import CorruptObject, ObjectMissing
from events.record import Record
from events.segment import times
from events.streams import stream_of
from schemas.archive import ArchivedPlace, place_key
from schemas.damage import damage
from schemas.ids import PartitionId, Position


class Place(NamedTuple):
    """How far a partition is archived; `tag` is the version of the object that says so, empty if there is none.

    `time` is when the last event there was written, empty if nobody knows; `untold` is of how many segments the object
    does not speak, at least.
    """

    cursor: Cursor
    tag: str
    time: str = ""
    untold: int = 0


async def recorded_place(archive: Archive, partition: PartitionId) -> Place:
    """Return the place that the store has for a partition: its start if none; raise what the store raises.

    A writer that another has taken over from may have moved it on once more: then it is where its epoch ended.
    """
    key = archive.key(place_key(stream_of(partition), partition))
    try:
        found = await archive.store.get(key)
    except ObjectMissing:
        return Place(Cursor.start(partition), "")
    except CorruptObject as error:
        raise LogDamaged(f"{key} cannot be read: {error}") from error
    try:
        place = ArchivedPlace.model_validate_json(found.data)
        cursor = Cursor(Position.parse(place.position), place.hash, place.sequence)
    except (ValidationError, ValueError) as error:
        raise LogDamaged(f"{key} does not hold a position: {damage(error)}") from error
    if place.partition != partition.subject:
        raise LogDamaged(f"{key} is of {place.partition}")
    if not await archive.knows(partition, cursor.position):
        return Place(await _epoch_end(archive, partition), found.tag)
    return Place(cursor, found.tag, place.time or "")


async def archived_end(archive: Archive, partition: PartitionId) -> Place:
    """Return the place after the last archived record, also one that was stored when its archiver died."""
    place = await recorded_place(archive, partition)
    last: Record | None = None
    async with aclosing(archive.read(partition, place.cursor, EVERYTHING)) as entries:
        async for entry in entries:
            place, last = place._replace(cursor=entry.cursor, untold=1), entry.record
    return place if last is None else place._replace(time=times(last)[1])


async def _epoch_end(archive: Archive, partition: PartitionId) -> Cursor:
    """Return the cursor after the last record of all epochs that are over."""
    *_, current = (await archive.epochs.table()).spans(partition)
    if current.first == 1:
        return Cursor.start(partition)
    cursor = await archive.cursor_of(partition, current.first - 1)
    if cursor is None:
        raise LogDamaged(
            f"{partition}: the archive does not hold record {current.first - 1}, the last before its epoch"
        )
    return cursor
