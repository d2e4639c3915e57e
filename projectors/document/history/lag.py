"""How far behind its document somebody is who stands at a position: in records, bytes and seconds."""

import time
from contextlib import aclosing
from typing import NamedTuple

from events.append import last_message
from events.connection import Connection
from events.errors import LogError
from events.read import message_position, messages_from
from events.seek import extent
from projectors.control.replicas.states import Reach
from projectors.document.history.history import History
from schemas.ids import START, PartitionId, Position
from schemas.instants import parse_instant

READ_RECORDS = 32  # bytes beyond are estimated by their mean


class Lag(NamedTuple):
    """What is missing; bytes and seconds are None if they could not be found out."""

    reach: Reach
    records: int
    size_bytes: int | None = 0
    seconds: float | None = 0.0


async def lag(history: History, reader: Connection, partition: PartitionId, position: Position) -> Lag:
    """Return how far `position` is behind; raise `LogUnavailable`."""
    last = await last_message(reader, partition)
    head = message_position(last) if last else START
    records = max(0, head.index - position.index)
    if not records:
        return Lag(Reach(START, head, 0.0), 0)
    floor = await _floor(reader, partition, position)
    try:
        size, seconds = await _missing(history, partition, position, records)
    except LogError:  # it is of another history, or what it needs next is gone
        return Lag(Reach(floor, head, float("inf")), records, None, None)
    return Lag(Reach(floor, head, seconds), records, size, seconds)


async def _floor(reader: Connection, partition: PartitionId, position: Position) -> Position:
    """Return the first record that can be read; the archive is asked only if the server has let go of what is next."""
    found = await messages_from(reader, partition, 1, 1)
    floor = message_position(found[0]) if found else START
    return (await extent(reader, partition)).floor if position.index + 1 < floor.index else floor


async def _missing(history: History, partition: PartitionId, position: Position, records: int) -> tuple[int, float]:
    """Return the bytes of the `records` after `position`, and the age of the first one in seconds."""
    size = count = 0
    seconds = 0.0
    async with aclosing(history.read(partition, await history.place(partition, position))) as entries:
        async for entry in entries:
            if not count and (events := entry.record.envelopes()):
                seconds = max(0.0, time.time() - parse_instant(str(events[0]["time"])).timestamp())
            size += len(entry.record.payload)
            count += 1
            if count == min(records, READ_RECORDS):
                break
    return size * records // max(1, count), round(seconds, 3)
