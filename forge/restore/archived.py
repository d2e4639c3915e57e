"""What the archive holds: its partitions, and single records of them."""

from collections.abc import AsyncIterator

from events.archive import Archive
from events.cursor import Cursor
from events.errors import LogGap
from events.record import Record
from events.streams import STREAMS
from schemas.ids import InvalidId, PartitionId


async def archived_partitions(archive: Archive) -> AsyncIterator[PartitionId]:
    """Yield every partition that the archive has a folder for, stream by stream; raise what the store raises."""
    for stream in STREAMS:
        after = ""
        while True:
            page = await archive.store.folders(archive.key(f"log/{stream.name}/"), after=after)
            for name in page.names:
                try:
                    yield PartitionId.parse(f"forge.log.{name}")
                except InvalidId:
                    continue  # somebody else's
            if not (after := page.next):
                break


async def archived_record(archive: Archive, partition: PartitionId, end: Cursor) -> Record:
    """Return the archived record after which `end` stands; raise `LogError` if it is not there."""
    async for key in archive.segments(partition, end.position):
        if key.first > end.position.index:
            break
        for entry in (await archive.segment(key)).entries:
            if (entry.cursor.position, entry.cursor.hash) == (end.position, end.hash):
                return entry.record
    raise LogGap(f"{partition}: record {end.position} is said to be archived, but no segment holds it")
