"""What the archive has of single partitions, compared with the log: looked up afresh, a page at a time."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from events.append import last_message
from events.archive import Archive
from events.archived_place import recorded_place
from events.connection import Connection
from events.cursor import Cursor
from events.errors import LogDamaged
from events.objects.errors import StoreError, StoreUnavailable
from events.read import BATCH_MESSAGES, message_position, messages_from
from events.streams import STREAMS, stream_state
from schemas.ids import START, PartitionId
from workers.archive.looks import Looks

LOOKED_UP_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """Where a partition stands here and in the archive; what is None could not be found out.

    `problem` is why it is archived no more, `unknown` why the store did not tell where it stands.
    Bytes are counted as far as one read of the log reaches, and estimated beyond.
    """

    partition: str
    position: str
    archived: str | None
    lag_records: int | None
    lag_bytes: int | None
    lag_s: float | None
    problem: str | None = None
    unknown: str | None = None


async def partitions_of(reader: Connection) -> list[PartitionId]:
    """Return every partition that has records, in the order of their subjects."""
    states = await asyncio.gather(*(stream_state(reader, stream.name, subjects=True) for stream in STREAMS))
    return [PartitionId.parse(subject) for subject in sorted(s for state in states for s in state.subjects)]


async def partition_lags(
    archive: Archive,
    reader: Connection,
    partitions: Sequence[PartitionId],
    looks: Looks,
    known: Callable[[PartitionId], Cursor | None] = lambda _: None,
    *,
    follows: bool = False,
) -> list[PartitionLag]:
    """Return the lag of each of `partitions`; raise `LogUnavailable`.

    The archiver knows it first: what is not `known` is asked of the store. A log that `follows` the archive of another
    node may be behind it.
    """
    limit = asyncio.Semaphore(LOOKED_UP_AT_ONCE)

    async def one(partition: PartitionId) -> PartitionLag:
        async with limit:
            return await _lag(archive, reader, partition, looks, known(partition), follows=follows)

    return list(await asyncio.gather(*map(one, partitions)))


async def _lag(
    archive: Archive, reader: Connection, partition: PartitionId, looks: Looks, known: Cursor | None, *, follows: bool
) -> PartitionLag:
    last = await last_message(reader, partition)
    here = message_position(last) if last else START
    try:
        cursor = known or (await looks.look(lambda: recorded_place(archive, partition))).cursor
    except StoreUnavailable as error:
        return PartitionLag(str(partition), str(here), None, None, None, None, unknown=str(error))
    except (StoreError, LogDamaged) as error:
        return PartitionLag(str(partition), str(here), None, None, None, None, str(error))
    records = here.index - cursor.position.index
    if records < 0 and follows:
        return PartitionLag(str(partition), str(here), str(cursor.position), records, None, None)
    if records < 0:
        why = "the archive is ahead: the log lost records, or the archive is that of another history"
        return PartitionLag(str(partition), str(here), str(cursor.position), records, None, None, why)
    size, seconds = await _measured(reader, partition, cursor, records) if records else (0, 0.0)
    return PartitionLag(str(partition), str(here), str(cursor.position), records, size, seconds)


async def _measured(reader: Connection, partition: PartitionId, after: Cursor, records: int) -> tuple[int, float]:
    """Return the bytes of the `records` that follow `after`, and the age of the first of them in seconds."""
    messages = await messages_from(reader, partition, after.sequence + 1, BATCH_MESSAGES)
    if not messages:
        return 0, 0.0
    size = sum(len(message.payload) for message in messages)
    read = message_position(messages[-1]).index - after.position.index
    stored_at = datetime.fromisoformat(messages[0].headers["Nats-Time-Stamp"]).timestamp()
    return size * records // max(1, min(read, records)), round(max(0.0, time.time() - stored_at), 3)
