"""Whether the log of a writer that starts again is the one that it had, as far as its archive tells."""

from events.append import last_message
from events.archive import Archive
from events.archived_place import archived_end
from events.connection import Connection
from events.read import message_position
from events.streams import stream_state
from projectors.tasks import for_each
from schemas.ids import START, PartitionId
from workers.archive.report import partitions_of
from workers.standby.changes import DAMAGED, marks

AT_ONCE = 16


async def lost_log(reader: Connection, archive: Archive) -> str:
    """Return what the log has lost, empty if nothing: it is gone, or an older copy was put in its place.

    The marks tell how far each stream was, and of which partitions more may be archived than they tell: of all, if one
    is damaged. Raise what the store and the log raise.
    """
    if not await partitions_of(reader):
        return "its log is gone"
    busy: list[PartitionId] = []
    for stream, mark in (await marks(archive)).items():
        state = await stream_state(reader, stream)
        if mark.created == state.created and state.last_sequence < mark.seen:
            return f"its log is an older one: {stream} ends at message {state.last_sequence}, but had {mark.seen}"
        busy += [PartitionId.of_token(token) for token in mark.busy or ()]
        if mark == DAMAGED:
            busy += [one async for one in archive.partitions(stream)]
    behind: list[str] = []

    async def compare(partition: PartitionId) -> None:
        last = await last_message(reader, partition)
        here, there = (
            message_position(last) if last else START,
            (await archived_end(archive, partition)).cursor.position,
        )
        if here.index < there.index:
            behind.append(f"its log is an older one: {partition} ends at {here}, but {there} is archived")

    await for_each(busy, compare, AT_ONCE)
    return min(behind, default="")
