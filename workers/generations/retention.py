"""Which generations of a projection are kept: the newest ones, the last of each day, and what the pointer names."""

from collections.abc import Sequence

import structlog

from events.archive import Archive
from projectors.generations.errors import GenerationError
from projectors.generations.reading import current, manifest, positions
from schemas.generation import CurrentGeneration, GenerationKey, Manifest
from schemas.ids import PartitionId, Position
from schemas.instants import later
from workers.generations import metrics
from workers.generations.window import DAY_S, Copy, Window, needed

log = structlog.get_logger(__name__)


async def thin(
    archive: Archive, projection: str, *, keep: int, keep_days: int, now: str, history_days: float = 0
) -> None:
    """Remove the manifests that nobody needs; a later sweep removes the chunks that only they named.

    Needed is also what the history of the last `history_days` (0: all of it) can be read from.
    """
    pointer = await current(archive, projection)
    if pointer is None:
        return
    older = [at for at in await positions(archive, projection) if at < pointer.at]
    if len(older) < keep:
        return
    # Those of the newest `keep` are not even looked at; the pointer's own is one of them.
    found = [(at, await _manifest(archive, projection, at)) for at in older[keep - 1 :]]
    made = [(at, one.created_at if one else "") for at, one in found]
    copies = [Copy(at, one.time if one else "") for at, one in found]
    partition = next((PartitionId.parse(one.partition) for _, one in found if one), None)
    floor = await archive.floor(partition) if partition else None
    stay = needed(copies, Window(history_days, now), floor.index if floor else 1)
    for at in unneeded(made, pointer, since=later(now, -keep_days * DAY_S)):
        if at in stay:
            continue
        await archive.store.delete(archive.key(str(GenerationKey(projection, at))))
        metrics.removed.labels("generation").inc()
        log.info("generation removed", projection=projection, position=str(at))


def unneeded(made: Sequence[tuple[Position, str]], pointer: CurrentGeneration, *, since: str) -> list[Position]:
    """Return which of some generations, newest first with when they were made, go.

    Of each day from `since` on the last one stays, and so does the newest that was verified.
    """
    days: set[str] = set()
    gone = []
    for at, created_at in made:
        day = created_at[:10]
        keeps = created_at >= since and day not in days
        if keeps:
            days.add(day)
        elif str(at) != pointer.verified_position:
            gone.append(at)
    return gone


async def _manifest(archive: Archive, projection: str, at: Position) -> Manifest | None:
    """Return a generation; None if it cannot be read: it is of no use."""
    try:
        return await manifest(archive, projection, at)
    except GenerationError:
        return None
