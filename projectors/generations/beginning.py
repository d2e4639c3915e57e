"""Begin a file with a generation, so that only the records after it have to be folded."""

from pathlib import Path

import structlog

from events.archive import Archive
from events.errors import HistoryBegins, LogUnavailable
from events.objects.errors import StoreError
from projectors.domain import ProjectionSpec
from projectors.generations.errors import GenerationError
from projectors.generations.fetching import fetch
from projectors.generations.reading import check_history, generations
from schemas.generation import Manifest
from schemas.ids import START, PartitionId, Position

log = structlog.get_logger(__name__)


async def begin(
    archive: Archive,
    spec: ProjectionSpec,
    path: Path,
    until: Position,
    *,
    after: Position = START,
    oldest: bool = False,
    refused: list[str],
) -> Manifest | None:
    """Make the newest (or the `oldest`) usable generation after one position and up to another at `path`.

    Nothing may be there. None if there is no such generation, and then nothing is there; why some could not be used is
    added to `refused`. Raise what reading the archive raises.
    """
    async for manifest in generations(archive, spec.name, until, oldest_first=oldest):
        if manifest.at <= after:
            if oldest:
                continue
            return None
        if manifest.version != spec.version:
            continue  # its tables are those of another Forge: the records make ours
        try:
            await check_history(archive, manifest)
            await fetch(archive, manifest, path, thorough=False)
        except GenerationError as error:
            log.warning("generation passed over", generation=str(manifest.key), reason=str(error))
            refused.append(f"{manifest.key} cannot be used: {error}")
            continue
        return manifest
    return None


async def begin_history(
    archive: Archive, partition: PartitionId, spec: ProjectionSpec, path: Path, until: Position
) -> Manifest | None:
    """Make at `path`, where nothing may be, what all that is archived of a history can be folded on.

    That is nothing (None) if the archive has the first record, else the oldest generation from which it goes on. Raise
    `HistoryBegins` if there is none up to `until`, and what reading the archive raises.
    """
    floor = await archive.floor(partition)
    if floor is None or floor.index == 1:
        return None
    refused: list[str] = []
    before = Position(floor.epoch, floor.index - 1)
    try:
        found = await begin(archive, spec, path, until, after=before, oldest=True, refused=refused)
    except StoreError as error:
        raise LogUnavailable(f"the generations of {spec.name} cannot be read: {error}") from error
    if found is None:
        why = "; ".join(refused) or "there is none"
        raise HistoryBegins(
            f"{partition}: the archive begins with record {floor}, and this version of Forge has no generation of "
            f"{spec.name} from there up to {until} that can be used: {why}",
            floor,
        )
    return found


async def earliest(archive: Archive, partition: PartitionId, spec: ProjectionSpec) -> Position | None:
    """Return from where on a projection can be made as it was, None if nowhere; raise what reading raises."""
    floor = await archive.floor(partition)
    if floor is None or floor.index == 1:
        return floor
    async for manifest in generations(archive, spec.name, oldest_first=True):
        if manifest.at.index >= floor.index and manifest.version == spec.version:
            return manifest.at
    return None
