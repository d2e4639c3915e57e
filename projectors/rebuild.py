"""Fold a partition again from its log: into a new file that takes the old one's place, or just to compare."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import apsw

from events.connection import Connection
from events.errors import HistoryBegins
from events.read import check_end
from events.seek import seek_end
from projectors.catch_up import Progress, catch_up
from projectors.difference import first_difference
from projectors.digest import digest
from projectors.domain import Domain, ProjectionSpec
from projectors.generations.beginning import begin_history
from projectors.projection import Projection, connect, read_cursor, remove_database
from projectors.threads import Threads
from schemas.ids import PartitionId, Position


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison of a projection with its log found."""

    projection: str
    position: Position
    digest: str
    rebuilt_digest: str
    difference: str | None
    begun: Position | None = None
    """The generation that was folded on, where the beginning of the history is not kept any more."""

    @property
    def equal(self) -> bool:
        """Whether the projection holds exactly what the log says."""
        return self.digest == self.rebuilt_digest


async def rebuild(
    reader: Connection,
    threads: Threads,
    domain: Domain,
    partition: PartitionId,
    specs: Sequence[ProjectionSpec],
    *,
    progress: Progress = lambda _: None,
) -> Sequence[Position | None]:
    """Fold the whole log once into new files, which take the place of the old ones.

    Nobody may have an old file open. Until its rename each of them is untouched. Return for each the generation that
    it was begun with, None if its history is kept from the first record on; raise `HistoryBegins` if there is none.
    """
    fresh = [beside(spec.path) for spec in specs]
    for spec in specs:
        await threads.run(sweep, spec.path)
    try:
        begun = await _fold_into(fresh, reader, threads, domain, partition, specs, None, progress)
        for new, spec in zip(fresh, specs, strict=True):
            await threads.run(swap, new, spec.path)
        return begun
    finally:
        for new in fresh:
            await threads.run(remove_database, new)


async def verify(
    reader: Connection,
    threads: Threads,
    domain: Domain,
    partition: PartitionId,
    spec: ProjectionSpec,
    *,
    progress: Progress = lambda _: None,
) -> Verdict:
    """Compare a projection, which may be in use, with a fold of its log to the same position. Changes nothing."""
    fresh = beside(spec.path)
    current = await threads.run(lambda: connect(spec.path, readonly=True))
    try:
        current.execute("BEGIN")  # one snapshot, however long this takes
        position = read_cursor(current).position
        seen = await threads.run(digest, current)
        await check_end(reader, partition, read_cursor(current))
        (begun,) = await _fold_into([fresh], reader, threads, domain, partition, [spec], position, progress)
        rebuilt = await threads.run(digest_of, fresh)
        difference = None
        if rebuilt != seen:
            difference = await threads.run(_explain, current, fresh)
        return Verdict(spec.name, position, seen, rebuilt, difference, begun)
    finally:
        await threads.run(current.close)
        await threads.run(remove_database, fresh)


async def _fold_into(
    fresh: Sequence[Path],
    reader: Connection,
    threads: Threads,
    domain: Domain,
    partition: PartitionId,
    specs: Sequence[ProjectionSpec],
    until: Position | None,
    progress: Progress,
) -> list[Position | None]:
    """Fold the log into the new files `fresh`, one per spec; return the generations that they were begun with."""
    begun: list[Position | None] = [None] * len(specs)
    for path in fresh:
        await threads.run(remove_database, path)
    try:
        await _fold_once(fresh, reader, threads, domain, partition, specs, until, progress)
    except HistoryBegins:
        if reader.archive is None:
            raise
        upmost = until or (await seek_end(reader, partition)).position
        for n, (path, spec) in enumerate(zip(fresh, specs, strict=True)):
            await threads.run(remove_database, path)
            generation = await begin_history(reader.archive, partition, spec, path, upmost)
            begun[n] = generation.at if generation else None
        await _fold_once(fresh, reader, threads, domain, partition, specs, until, progress)
    return begun


async def _fold_once(
    paths: Sequence[Path],
    reader: Connection,
    threads: Threads,
    domain: Domain,
    partition: PartitionId,
    specs: Sequence[ProjectionSpec],
    until: Position | None,
    progress: Progress,
) -> None:
    """Fold what follows into files that are there, and everything into those that are not."""
    projections: list[Projection] = []
    try:
        for path, spec in zip(paths, specs, strict=True):
            projections.append(await threads.run(partial(Projection, spec, partition, path, durable=False)))
        await catch_up(reader, threads, domain, partition, projections, until=until, progress=progress)
    finally:
        for projection in projections:
            await threads.run(projection.close)


def digest_of(path: Path) -> str:
    """Return the digest of the projection in a file."""
    db = connect(path, readonly=True)
    try:
        return digest(db)
    finally:
        db.close()


def beside(path: Path) -> Path:
    """Return where this process folds what shall take the place of `path`."""
    return path.with_name(f"{path.name}.rebuild-{os.getpid()}")


def swap(fresh: Path, path: Path) -> None:
    """Put `fresh` in the place of `path`, never under a WAL of the old file (SQLite would apply it)."""
    with open(fresh, "rb") as file:
        os.fsync(file.fileno())
    if path.exists():
        with suppress(apsw.NotADBError, apsw.CorruptError):  # nobody can use such a file
            close_wal(path)
    for suffix in ("-wal", "-shm", "-journal"):  # also when somebody removed the file alone
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    os.replace(fresh, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def close_wal(path: Path) -> None:
    """Fold the WAL in and remove it; fails if somebody else has the file open."""
    old = connect(path)
    try:
        for _ in old.execute("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=DELETE; BEGIN EXCLUSIVE; COMMIT"):
            pass
    finally:
        old.close()


def sweep(path: Path) -> None:
    """Remove what rebuilds that were killed left beside `path`."""
    _sweep(path.parent.glob(f"{path.name}.rebuild-*"))


def sweep_folder(folder: Path) -> None:
    """Remove what rebuilds that were killed left in a folder, in one pass over it."""
    _sweep(folder.glob("*.rebuild-*"))


def _sweep(paths: Iterable[Path]) -> None:
    for left in paths:
        pid = left.name.rpartition("-")[2]
        if pid.isdigit() and not _runs(int(pid)):
            remove_database(left)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _explain(current: apsw.Connection, fresh: Path) -> str:
    rebuilt = connect(fresh, readonly=True)
    try:
        return str(first_difference(current, rebuilt))
    finally:
        rebuilt.close()
