"""What is known of one partition: where it stands in the log, in the archive, in generations and with its followers."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from events.append import last_message
from events.archive import Archive
from events.archived_place import recorded_place
from events.boundary import Boundary
from events.connection import Connection
from events.errors import ChainMismatch, LogGap
from events.read import message_position, messages_from
from events.record import Message
from events.seek import seek_index, seek_time
from schemas.ids import PartitionId
from schemas.instants import later
from workers.log_retention.rule import Bounds, Follower, Standing

Covered = Callable[[PartitionId], Awaitable[int]]
"""Gives the last record that a verified generation of each projection of a partition holds; 0 if there are none."""

Followers = Callable[[PartitionId], Sequence[Follower]]
"""Gives the replicas of a partition for which the log is kept."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where it is found out; `clock` returns the present moment."""

    reader: Connection
    archive: Archive
    covered: Covered
    followers: Followers
    clock: Callable[[], str]


async def look(sources: Sources, partition: PartitionId, bounds: Bounds, *, pressed: bool = False) -> Standing | None:
    """Return how a partition stands, None if it has a record at most, or the bounds keep all of it anyway.

    The store is asked last: it costs most, and most partitions need not be looked up there.
    """
    last = await last_message(sources.reader, partition)
    found = await messages_from(sources.reader, partition, 1, 1)
    if last is None or not found:
        return None
    first, head = message_position(found[0]).index, message_position(last).index
    if first >= head:
        return None
    aged = head if pressed or bounds.seconds <= 0 else await _aged(sources, partition, found[0], bounds.seconds)
    if not pressed and min(aged, head - bounds.records) < first:
        return None
    place = await recorded_place(sources.archive, partition)
    archived, covered = min(place.cursor.position.index, head), await sources.covered(partition)
    return Standing(first, head, archived, covered, aged, tuple(sources.followers(partition)))


async def _aged(sources: Sources, partition: PartitionId, first: Message, seconds: float) -> int:
    """Return the last record that was written so long ago, 0 if none on the server was."""
    instant = later(sources.clock(), -seconds)
    if datetime.fromisoformat(first.headers["Nats-Time-Stamp"]) > datetime.fromisoformat(instant):
        return 0
    return (await seek_time(sources.reader, partition, instant)).position.index


async def check_archived(reader: Connection, archive: Archive, partition: PartitionId, end: Boundary) -> None:
    """Raise unless the archive holds the very record after which the log is to begin, and so all before it.

    Where the archive begins later, all before it is kept nowhere, and its first record is compared instead: the log
    goes on to there.
    """
    position, hash_ = end.position, end.hash
    floor = await archive.floor(partition)
    if floor is not None and floor.index > position.index:
        position, hash_ = floor, (await seek_index(reader, partition, floor.index)).hash
    archived = await archive.cursor_at(partition, position)
    if archived is None:
        raise LogGap(f"the archive of {partition} does not hold record {position}, although it says so")
    if archived.hash != hash_:
        raise ChainMismatch(
            f"the archive of {partition} holds another record {position} than the log: it is that of another "
            "history. Nothing was removed from the log"
        )
