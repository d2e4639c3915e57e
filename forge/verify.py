"""Read a partition's whole log and check everything that can be checked without a second copy."""

from dataclasses import dataclass

from events.envelope import decode_events
from events.errors import LogDamaged
from events.log import Log
from events.read import Cursor, check_end, read
from forge.node import domains
from projectors.projection import connect, read_cursor
from schemas.ids import PartitionId
from schemas.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """What was read of one partition, and what is wrong with it (None: nothing)."""

    partition: str
    records: int
    events: int
    position: str
    problem: str | None


async def verify_partition(event_log: Log, settings: Settings, partition: PartitionId) -> Finding:
    """Check order, chain and events of all records, and that no database here is ahead of the log."""
    domain = domains(settings).get(partition.domain)
    cursor = Cursor.start(partition)
    records = events = 0
    problem = None
    try:
        async for entry in read(event_log.reader, partition, cursor):
            if domain is not None:
                events += len(decode_events(entry.record.json(), domain.facts))
            else:
                events += len(entry.record.envelopes())
            records += 1
            cursor = entry.cursor
        for spec in domain.projections(partition.key) if domain else ():
            if spec.path.exists():
                db = connect(spec.path, readonly=True)
                try:
                    known = read_cursor(db)
                finally:
                    db.close()
                await check_end(event_log.reader, partition, known)
    except LogDamaged as error:
        problem = str(error)
    return Finding(str(partition), records, events, str(cursor.position), problem)
