"""What has changed in the archive since one looked last, told by its marks in a request for each stream."""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from events.archive import Archive
from events.objects.errors import CorruptObject, ObjectMissing
from events.streams import STREAMS
from schemas.archive import Mark, mark_key
from schemas.ids import PartitionId
from workers.standby import metrics

NOTHING = Mark(sequence=0, created="")
DAMAGED = Mark(sequence=0, created="", teller="nobody can say")
"""Of a mark that cannot be read: it is a hint, and without it all of the stream is looked through."""


class Changes(NamedTuple):
    """The partitions that have changed; None: any of the stream may have."""

    stream: str
    partitions: frozenset[PartitionId] | None


async def marks(archive: Archive) -> dict[str, Mark]:
    """Return the mark of each stream, `DAMAGED` for one that cannot be read; raise what the store raises."""
    names = [stream.name for stream in STREAMS]
    return dict(zip(names, await asyncio.gather(*(_mark(archive, name) for name in names)), strict=True))


async def _mark(archive: Archive, stream: str) -> Mark:
    try:
        return Mark.model_validate_json((await archive.store.get(archive.key(mark_key(stream)))).data)
    except ObjectMissing:
        return NOTHING
    except (CorruptObject, ValueError):
        metrics.damaged_marks.inc()
        return DAMAGED


def changes(before: Mapping[str, Mark], now: Mapping[str, Mark]) -> list[Changes]:
    """Return what has changed between two readings of the marks."""
    found = [Changes(stream, changed_between(before.get(stream, NOTHING), mark)) for stream, mark in now.items()]
    return [one for one in found if one.partitions != frozenset()]


def changed_between(before: Mark, now: Mark) -> frozenset[PartitionId] | None:
    """Return the partitions of a stream that have changed between two of its marks; None: any may have."""
    if DAMAGED in (before, now):
        return None
    if (before.teller, before.told) == (now.teller, now.told):
        return frozenset()
    more = now.told - before.told
    if before.teller != now.teller or not 0 < more <= len(now.changed):
        return None
    return frozenset(PartitionId.of_token(token) for token in now.changed[-more:])
