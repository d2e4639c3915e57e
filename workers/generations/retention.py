"""Which generations of a projection are kept: the newest ones, the last of each day, and what the pointer names."""

from collections.abc import Sequence

import structlog

from events.archive import Archive
from projectors.generations.errors import GenerationError
from projectors.generations.reading import current, manifest, positions
from schemas.generation import CurrentGeneration, GenerationKey
from schemas.ids import Position
from schemas.instants import later
from workers.generations import metrics

DAY_S = 86_400

log = structlog.get_logger(__name__)


async def thin(archive: Archive, projection: str, *, keep: int, keep_days: int, now: str) -> None:
    """Remove the manifests that nobody needs; a later sweep removes the chunks that only they named."""
    pointer = await current(archive, projection)
    if pointer is None:
        return
    older = [at for at in await positions(archive, projection) if at < pointer.at]
    if len(older) < keep:
        return
    # Those of the newest `keep` are not even looked at; the pointer's own is one of them.
    made = [(at, await _created_at(archive, projection, at)) for at in older[keep - 1 :]]
    for at in unneeded(made, pointer, since=later(now, -keep_days * DAY_S)):
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


async def _created_at(archive: Archive, projection: str, at: Position) -> str:
    """Return when a generation was made; nothing for one that cannot be read: it is of no use."""
    try:
        return (await manifest(archive, projection, at)).created_at
    except GenerationError:
        return ""
