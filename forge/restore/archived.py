"""Single records of the archive."""

from events.archive import Archive
from events.cursor import Cursor
from events.errors import LogGap
from events.record import Record
from schemas.ids import PartitionId


async def archived_record(archive: Archive, partition: PartitionId, end: Cursor) -> Record:
    """Return the archived record after which `end` stands; raise `LogError` if it is not there."""
    async for key in archive.segments(partition, end.position):
        if key.first > end.position.index:
            break
        for entry in (await archive.segment(key)).entries:
            if (entry.cursor.position, entry.cursor.hash) == (end.position, end.hash):
                return entry.record
    raise LogGap(f"{partition}: record {end.position} is said to be archived, but no segment holds it")
