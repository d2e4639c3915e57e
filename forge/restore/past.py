"""One projection as it was at a moment, made of the archive alone, in a file of its own."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from events.archive import Archive
from events.archived_place import archived_end
from events.cursor import Cursor
from events.errors import HistoryBegins
from events.segment import times
from forge.private_file import sync_folder
from forge.restore.archived import archived_record
from forge.restore.fresh import Wanted, fold_at
from projectors.catch_up import Progress
from projectors.domain import Domain, ProjectionSpec
from projectors.generations.beginning import earliest
from projectors.projection import remove_database
from projectors.threads import Threads
from schemas.ids import PartitionId, Position


class NotInArchive(Exception):
    """The archive does not hold what was asked for; `missing` says whether it has nothing of that name at all."""

    def __init__(self, why: str, *, missing: bool = False) -> None:
        super().__init__(why)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Past:
    """What was made: the position, when its last record was written, the file, and the generation it began with."""

    projection: str
    position: str
    time: str
    path: str
    size_bytes: int
    generation: str | None


async def find(archive: Archive, partition: PartitionId, moment: Position | str | None) -> Cursor:
    """Return the archived place at a position, or after the last record at or before an instant; None: the end.

    Raise `NotInArchive`, `LogError`, and what the store raises.
    """
    end = (await archived_end(archive, partition)).cursor
    if not end.position.index:
        raise NotInArchive(f"nothing of {partition} is archived in {archive.name}", missing=True)
    if moment is None:
        return end
    if isinstance(moment, Position):
        found = await archive.cursor_at(partition, moment)
        if found is None or not found.position.index:
            begins = await _beginning(archive, partition)
            raise NotInArchive(f"the archive of {partition} has no record {moment}{begins}; it ends at {end.position}")
        return found
    found = await archive.cursor_before(partition, end.position.next(), moment)
    if found is None or not found.position.index:
        raise NotInArchive(
            f"{moment} is before the archived history of {partition}{await _beginning(archive, partition)}"
        )
    return found


async def _beginning(archive: Archive, partition: PartitionId) -> str:
    """Say with which record the archived history begins, and when that was written; nothing if that is unknown."""
    floor = await archive.floor(partition)
    first = await archive.cursor_of(partition, floor.index) if floor is not None else None
    if first is None:
        return ""
    began, _ = times(await archived_record(archive, partition, first))
    return f", which begins with {first.position} at {began}"


async def make(
    archive: Archive,
    threads: Threads,
    domain: Domain,
    partition: PartitionId,
    spec: ProjectionSpec,
    end: Cursor,
    target: Path,
    *,
    progress: Progress = lambda _: None,
) -> Past:
    """Make the projection at `end` in a new file; raise `FileExistsError`, and what `fold_at` raises.

    The file appears whole or not at all. Raise `NotInArchive` where too much of its history is not kept any more.
    """
    await asyncio.to_thread(_check_free, target)
    made = target.with_name(f".{target.name}.{os.getpid()}.part")
    wanted = Wanted(partition, domain, [spec], end)
    try:
        (generation,), last = await fold_at(archive, threads, wanted, [made], progress=progress)
        size = await asyncio.to_thread(_put, made, target)
    except HistoryBegins as error:
        first = await earliest(archive, partition, spec)
        since = f"from {first} on" if first else "not any more: no generation of it can be used"
        raise NotInArchive(f"{spec.name} at {end.position} cannot be made; it can be {since}. {error}") from error
    finally:
        await threads.run(remove_database, made)
    _, time = times(last or await archived_record(archive, partition, end))
    used = generation.position if generation else None
    return Past(spec.name, str(end.position), time, str(target), size, used)


def _check_free(target: Path) -> None:
    if not target.parent.is_dir():
        raise NotADirectoryError(f"there is no folder {target.parent}")
    if target.exists():
        raise FileExistsError(f"{target} exists")


def _put(made: Path, target: Path) -> int:
    """Give a whole file its name, on disk, unless the name was taken meanwhile; return its size."""
    with open(made, "rb") as file:
        os.fchmod(file.fileno(), 0o600)  # SQLite makes files that everybody may read
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
    os.link(made, target)
    sync_folder(target.parent)
    return size
