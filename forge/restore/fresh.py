"""Fresh projections from the archive: the newest generation that is sound, then the archived records after it."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from events.archive import Archive
from events.cursor import Cursor, Entry
from events.errors import LogGap
from events.record import Record
from projectors.catch_up import Progress, fold_entries
from projectors.domain import Domain, ProjectionSpec
from projectors.generations.beginning import begin, begin_history
from projectors.projection import Projection, connect, remove_database
from projectors.rebuild import beside, swap
from projectors.threads import Threads
from schemas.generation import Manifest
from schemas.ids import PartitionId


@dataclass(frozen=True, slots=True)
class Wanted:
    """Some projections of a partition, and where they shall stand: at a record of the archive.

    Those that are `never_copied` have no generation, as is known.
    """

    partition: PartitionId
    domain: Domain
    specs: Sequence[ProjectionSpec]
    end: Cursor
    never_copied: Collection[str] = ()


class Made(NamedTuple):
    """What each file was begun with, and the last record that was folded, None if nothing had to be."""

    generations: Sequence[Manifest | None]
    last: Record | None


@dataclass(frozen=True, slots=True)
class Fresh:
    """Whole files that are no projections yet, and how they were `made`."""

    wanted: Wanted
    paths: Sequence[Path]
    made: Made
    threads: Threads

    async def install(self, sequence: int) -> None:
        """Put each file in the place of the old one, if any, which nobody may have open.

        `sequence` is where the log here keeps the record at which they stand.
        """
        for path, spec in zip(self.paths, self.wanted.specs, strict=True):
            await self.threads.run(set_sequence, path, sequence)
            await self.threads.run(swap, path, spec.path)


@asynccontextmanager
async def fresh_files(
    archive: Archive, threads: Threads, wanted: Wanted, *, progress: Progress = lambda _: None
) -> AsyncIterator[Fresh]:
    """Make what is `wanted` beside its place; what was not installed is removed. Raise what `fold_at` raises."""
    paths = [beside(spec.path) for spec in wanted.specs]
    for spec in wanted.specs:
        spec.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        made = await fold_at(archive, threads, wanted, paths, progress=progress)
        yield Fresh(wanted, paths, made, threads)
    finally:
        for path in paths:
            await threads.run(remove_database, path)


async def fold_at(
    archive: Archive,
    threads: Threads,
    wanted: Wanted,
    paths: Sequence[Path],
    *,
    from_generation: bool = True,
    refused: list[str] | None = None,
    progress: Progress = lambda _: None,
) -> Made:
    """Make what is `wanted` at `paths`; return how. Memory is bounded by one segment.

    Not `from_generation` is from the first record on; from the oldest generation, where that is not kept any more. Why
    generations could not be used is added to `refused`; an older one, or the records alone, do as well.

    Raise `LogError` if the archive does not hold it (any more: `HistoryBegins`), `LogUnavailable` and
    `StoreUnavailable` while it does not answer.
    """
    begun: list[Manifest | None] = []
    end, refused = wanted.end.position, [] if refused is None else refused
    opened: list[Projection] = []
    try:
        for spec, path in zip(wanted.specs, paths, strict=True):
            await threads.run(remove_database, path)
            if not from_generation:
                begun.append(await begin_history(archive, wanted.partition, spec, path, end))
            elif spec.name in wanted.never_copied:
                begun.append(None)
            else:
                begun.append(await begin(archive, spec, path, end, refused=refused))
            new = partial(Projection, spec, wanted.partition, path, durable=False)
            opened.append(await threads.run(new))
        last = await catch_up_from(archive, threads, wanted, opened, progress=progress)
    finally:
        for projection in opened:
            await threads.run(projection.close)
    return Made(begun, last)


async def catch_up_from(
    archive: Archive,
    threads: Threads,
    wanted: Wanted,
    projections: Sequence[Projection],
    *,
    progress: Progress = lambda _: None,
) -> Record | None:
    """Fold archived records into open projections until all stand where it is wanted; return the last, if any.

    Raise `LogGap` if they cannot.
    """
    end, partition = wanted.end, wanted.partition
    seen: list[Entry] = []
    start = min((projection.cursor for projection in projections), key=lambda cursor: cursor.position)
    if start.position < end.position:
        entries = _noting(archive.read(partition, start, end.position.next()), seen)
        await fold_entries(entries, threads, wanted.domain, projections, until=end.position, progress=progress)
    for projection in projections:
        if (projection.cursor.position, projection.cursor.hash) != (end.position, end.hash):
            raise LogGap(f"the archive of {partition} ends at {projection.cursor.position}, before {end.position}")
    return seen[0].record if seen else None


async def _noting(entries: AsyncIterator[Entry], seen: list[Entry]) -> AsyncIterator[Entry]:
    """Yield `entries`, the newest of which is in `seen`."""
    async for entry in entries:
        seen[:] = [entry]
        yield entry


def set_sequence(path: Path, sequence: int) -> None:
    """Note where the log here keeps the record at which a projection, which nobody has open, stands."""
    with closing(connect(path)) as db:
        db.execute("UPDATE _forge_position SET sequence = ? WHERE sequence <> ?", (sequence, sequence))
