"""Begin a file with a generation, so that only the records after it have to be folded."""

from pathlib import Path

import structlog

from events.archive import Archive
from projectors.domain import ProjectionSpec
from projectors.generations.errors import GenerationError
from projectors.generations.fetching import fetch
from projectors.generations.reading import check_history, generations
from schemas.generation import Manifest
from schemas.ids import START, Position

log = structlog.get_logger(__name__)


async def begin(
    archive: Archive, spec: ProjectionSpec, path: Path, until: Position, *, after: Position = START, refused: list[str]
) -> Manifest | None:
    """Make the newest usable generation after one position and up to another at `path`, where nothing may be.

    None if there is none, and then nothing is there; why some could not be used is added to `refused`. Raise what
    reading the archive raises.
    """
    async for manifest in generations(archive, spec.name, until):
        if manifest.at <= after:
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
