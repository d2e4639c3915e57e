"""Where in a stream one record of a partition ends and the next one begins, found by index whatever their epochs."""

from typing import NamedTuple

from events.append import last_message
from events.connection import Connection
from events.errors import LogGap, LogUnavailable
from events.read import message_position, messages_from
from events.record import Message
from schemas.ids import PartitionId, Position


class Boundary(NamedTuple):
    """Between the record at `position`, whose hash is `hash`, and the one that begins with message `sequence`."""

    position: Position
    hash: str
    sequence: int


async def boundary(connection: Connection, partition: PartitionId, index: int) -> Boundary | None:
    """Return where the record `index` ends; None if no record follows it, or it is not on the server any more.

    Raise `LogGap` if the records there do not follow each other, and `LogUnavailable`.
    """
    last = await last_message(connection, partition)
    if last is None or message_position(last).index <= index:
        return None
    before = await _first(connection, partition, 1)
    if message_position(before).index > index:
        return None
    following, bound = last, last.sequence
    while bound - before.sequence > 1:
        asked = (before.sequence + bound) // 2
        found = await _first(connection, partition, asked)
        if message_position(found).index > index:
            following, bound = found, asked
        else:
            before = found
    position, parts = message_position(before), int(following.headers.get("Nats-Batch-Sequence", "1"))
    if (position.index, message_position(following).index, parts) != (index, index + 1, 1):
        raise LogGap(f"{partition}: message {following.sequence} does not begin the record after {position}")
    return Boundary(position, following.headers["Forge-Previous"], following.sequence)


async def _first(connection: Connection, partition: PartitionId, sequence: int) -> Message:
    """Return the first message of the partition from `sequence` on; there is one."""
    found = await messages_from(connection, partition, sequence, 1)
    if not found:  # a server of a cluster that has not heard of it yet
        raise LogUnavailable(f"the server does not tell what {partition} has from message {sequence} on")
    return found[0]
