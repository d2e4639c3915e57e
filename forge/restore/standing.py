"""How the log and the projections of one partition stand to its archive, and so what has to be done about them."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import apsw

from events.archive import Archive
from events.archived_place import archived_end
from events.connection import Connection
from events.cursor import Cursor
from events.seek import OutOfReach, seek, seek_end
from projectors.domain import Domain, ProjectionSpec
from projectors.projection import connect, read_cursor
from projectors.threads import Threads
from schemas.ids import PartitionId


class Standing(StrEnum):
    """How something that is here stands to what is archived."""

    MISSING = "missing"
    """Nothing is here, or nothing that can be used."""
    BEHIND = "behind"
    """Here is a beginning of it."""
    CURRENT = "current"
    AHEAD = "ahead"
    """Here is all of it, and more that will be archived."""
    DIVERGED = "diverged"
    """Here is something that is not of its history: another writer took over, or the log is another one."""
    ALONE = "alone"
    """Here is a projection of more than the archive and the log hold: of records that are lost."""
    LOCAL = "local"
    """Nothing is archived."""


NOT_OF_IT = (Standing.DIVERGED, Standing.ALONE)
"""What has no place in the archived history, and is never thrown away."""


@dataclass(frozen=True, slots=True)
class FileState:
    """One projection: its cursor (None: no file that can be used), and why a file that is there cannot be."""

    spec: ProjectionSpec
    cursor: Cursor | None
    standing: Standing
    damage: str = ""

    @property
    def sequence(self) -> int:
        """Where the file says that the log keeps its record."""
        return self.cursor.sequence if self.cursor is not None else 0


@dataclass(frozen=True, slots=True)
class PartitionState:
    """One partition: where its archive ends (None: it has none) and of when that is, its log, and its projections.

    `untold` says that its archive holds more than its position there says.
    """

    partition: PartitionId
    domain: Domain | None
    end: Cursor | None
    archived_time: str
    log: Cursor
    standing: Standing
    files: tuple[FileState, ...]
    untold: bool = False

    @property
    def log_holds_end(self) -> bool:
        """Whether the log here has all that is archived."""
        return self.standing in (Standing.CURRENT, Standing.AHEAD)


async def examine(
    archive: Archive, reader: Connection, threads: Threads, domain: Domain | None, partition: PartitionId
) -> PartitionState:
    """Compare a partition, which nobody has open, with its archive. Changes nothing.

    Raise `LogError`, and what the store raises.
    """
    place = await archived_end(archive, partition)
    end = place.cursor if place.cursor.position.index else None
    log = await seek_end(reader, partition)
    standing = await _of_log(archive, reader, partition, log, end)
    files = []
    for spec in _specs(domain, partition):
        cursor, damage, fits = await threads.run(_cursor, spec, partition)
        stands = await _of_file(archive, reader, partition, cursor, end, standing)
        if not fits and stands not in NOT_OF_IT:
            stands = Standing.MISSING  # made by another Forge: made anew, as at every start
        files.append(FileState(spec, cursor, stands, damage))
    return PartitionState(partition, domain, end, place.time, log, standing, tuple(files), bool(place.untold))


def _specs(domain: Domain | None, partition: PartitionId) -> Sequence[ProjectionSpec]:
    return domain.projections(partition.key) if domain is not None else ()


async def _of_log(
    archive: Archive, reader: Connection, partition: PartitionId, log: Cursor, end: Cursor | None
) -> Standing:
    if not log.position.index:
        return Standing.MISSING
    if not await archive.knows(partition, log.position):
        return Standing.DIVERGED
    if end is None:
        return Standing.LOCAL
    if log.position <= end.position:
        return await _below(archive, partition, log, end)
    return Standing.AHEAD if await _log_holds(reader, partition, end) else Standing.DIVERGED


async def _of_file(
    archive: Archive,
    reader: Connection,
    partition: PartitionId,
    cursor: Cursor | None,
    end: Cursor | None,
    log: Standing,
) -> Standing:
    if cursor is None or not cursor.position.index:
        return Standing.MISSING
    if not await archive.knows(partition, cursor.position):
        return Standing.DIVERGED
    if end is not None and cursor.position <= end.position:
        below = await _below(archive, partition, cursor, end)
        if below is Standing.DIVERGED and log in (Standing.AHEAD, Standing.CURRENT):
            # The archive may begin later; what the log here still holds needs no archive.
            return Standing.BEHIND if await _log_holds(reader, partition, cursor) else below
        return below
    if log in (Standing.AHEAD, Standing.LOCAL, Standing.CURRENT) and await _log_holds(reader, partition, cursor):
        return Standing.AHEAD
    return Standing.DIVERGED if log is Standing.DIVERGED else Standing.ALONE


async def _below(archive: Archive, partition: PartitionId, known: Cursor, end: Cursor) -> Standing:
    """Say how what stands at or before the archive's end stands to it.

    Of what is older than the archive's beginning nobody can tell any more: it is kept aside, as what is not of it.
    """
    if known.position == end.position:
        return Standing.CURRENT if known.hash == end.hash else Standing.DIVERGED
    found = await archive.cursor_at(partition, known.position)
    return Standing.BEHIND if found is not None and found.hash == known.hash else Standing.DIVERGED


async def _log_holds(reader: Connection, partition: PartitionId, known: Cursor) -> bool:
    try:
        return (await seek(reader, partition, known.position)).hash == known.hash
    except OutOfReach:
        return False


def _cursor(spec: ProjectionSpec, partition: PartitionId) -> tuple[Cursor | None, str, bool]:
    """Return where a file stands (None: nowhere), why it cannot be read, and whether this Forge made its tables."""
    if not _exists(spec.path):
        return None, "", False
    try:
        with closing(connect(spec.path, readonly=True)) as db:
            if not db.table_exists("main", "_forge_position"):
                return None, "it is no projection", False
            found, version = db.execute("SELECT partition, version FROM _forge_position").get
            if found != partition.subject:
                return None, f"it is of {found}", False
            return read_cursor(db), "", version == spec.version
    except (apsw.NotADBError, apsw.CorruptError, TypeError) as error:
        return None, f"it is damaged: {error}", False


def _exists(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
