"""Open a partition's projections so that they agree with the log, rebuilding those of another version."""

import apsw
import structlog

from events.connection import Connection
from events.errors import HistoryBegins
from events.read import check_end
from projectors.catch_up import Progress, catch_up
from projectors.domain import Domain, ProjectionSpec
from projectors.projection import Projection, WrongProjection
from projectors.rebuild import rebuild
from projectors.threads import Threads
from schemas.ids import START, PartitionId

log = structlog.get_logger(__name__)


async def open_projections(
    reader: Connection, threads: Threads, domain: Domain, partition: PartitionId, progress: Progress
) -> list[Projection]:
    """Return the projections of `partition`, all at the end of the log; the first is decided against.

    Raise `LogDamaged` if the log and a projection contradict each other, `LogUnavailable` if it is away.
    """
    opened: list[Projection] = []
    try:
        for spec in domain.projections(partition.key):
            opened.append(await _open_one(reader, threads, domain, partition, spec, progress))
        known = max((p.cursor for p in opened), key=lambda cursor: cursor.position)
        end = await check_end(reader, partition, known)
        if any(projection.cursor.position != end for projection in opened):
            await _catch_up(reader, threads, domain, partition, opened, progress)
    except BaseException:
        for projection in opened:
            await threads.run(projection.close)
        raise
    return opened


async def _catch_up(
    reader: Connection,
    threads: Threads,
    domain: Domain,
    partition: PartitionId,
    opened: list[Projection],
    progress: Progress,
) -> None:
    """Bring projections to the end of the log; those that are new, of a history whose beginning is not kept, anew."""
    try:
        return await catch_up(reader, threads, domain, partition, opened, progress=progress)
    except HistoryBegins:
        if all(projection.cursor.position != START for projection in opened):
            raise  # what is here may be all that there is of it: `forge rebuild` gives it up, nobody else
    for n, projection in enumerate(opened):
        if projection.cursor.position == START:
            await threads.run(projection.close)
            await rebuild(reader, threads, domain, partition, [projection.spec], progress=progress)
            opened[n] = await threads.run(Projection, projection.spec, partition)
    await catch_up(reader, threads, domain, partition, opened, progress=progress)


async def _open_one(
    reader: Connection,
    threads: Threads,
    domain: Domain,
    partition: PartitionId,
    spec: ProjectionSpec,
    progress: Progress,
) -> Projection:
    try:
        return await threads.run(Projection, spec, partition)
    except (WrongProjection, apsw.NotADBError, apsw.CorruptError) as reason:
        log.warning("rebuilding", projection=spec.name, reason=str(reason))
        await rebuild(reader, threads, domain, partition, [spec], progress=progress)
        return await threads.run(Projection, spec, partition)
