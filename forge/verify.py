"""Read a partition's whole log and check everything that can be checked without a second copy."""

from dataclasses import dataclass
from pathlib import Path

from events.cursor import Cursor
from events.envelope import decode_events
from events.errors import LogDamaged
from events.log import Log
from events.read import check_end, read
from events.seek import seek_begin
from forge.domains import domains, partitions_here
from projectors.projection import connect, read_cursor
from schemas.ids import START, PartitionId
from schemas.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """What was read of one partition, and what is wrong with it (None: nothing)."""

    partition: str
    records: int
    events: int
    position: str
    problem: str | None


def folded_partitions(settings: Settings) -> set[PartitionId]:
    """Return the partitions of which some database here has folded a record, whether or not the log has any."""
    known = domains(settings)
    return {
        partition
        for partition in partitions_here(settings)
        for spec in known[partition.domain].projections(partition.key)
        if spec.path.exists() and _cursor(spec.path).position != START
    }


async def verify_partition(event_log: Log, settings: Settings, partition: PartitionId) -> Finding:
    """Check order, chain and events of all records, and that no database here is ahead of the log."""
    domain = domains(settings).get(partition.domain)
    records = events = 0
    cursor, problem = Cursor.start(partition), None
    try:
        cursor = await seek_begin(event_log.reader, partition)
        async for entry in read(event_log.reader, partition, cursor):
            if domain is not None:
                events += len(decode_events(entry.record.json(), domain.facts))
            else:
                events += len(entry.record.envelopes())
            records += 1
            cursor = entry.cursor
        for spec in domain.projections(partition.key) if domain else ():
            if spec.path.exists():
                await check_end(event_log.reader, partition, _cursor(spec.path))
    except LogDamaged as error:
        problem = str(error)
    return Finding(str(partition), records, events, str(cursor.position), problem)


def _cursor(path: Path) -> Cursor:
    db = connect(path, readonly=True)
    try:
        return read_cursor(db)
    finally:
        db.close()
