"""Bring one partition to where its archive stands, without ever replacing newer by older."""

from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from ulid import ULID

from events.append import Appended, append
from events.archive import Archive
from events.cursor import Cursor
from events.errors import LogDamaged
from events.log import Log
from events.purge import purge
from events.record import Record
from events.seek import seek
from events.write_guard import ALWAYS_OPEN, WriteGuard
from forge.restore.archived import archived_record
from forge.restore.aside import keep_file, keep_tail
from forge.restore.copied import Copied
from forge.restore.fresh import Wanted, catch_up_from, fresh_files, set_sequence
from forge.restore.outcome import Done, Outcome
from forge.restore.standing import NOT_OF_IT, FileState, PartitionState, Standing
from projectors.catch_up import Progress
from projectors.domain import ProjectionSpec
from projectors.projection import Projection, connect
from projectors.threads import Threads
from schemas.ids import START

APPENDED_MAX = 4096
"""So many records are appended one by one to a log that is behind."""


@dataclass(frozen=True, slots=True)
class Restorer:
    """What restoring needs. With `alone_aside`, files that hold more than log and archive together are put aside."""

    archive: Archive
    log: Log
    threads: Threads
    data_dir: Path
    alone_aside: bool = False
    guard: WriteGuard = ALWAYS_OPEN
    copied: Copied | None = None

    async def carry_out(self, state: PartitionState, progress: Progress = lambda _: None) -> Outcome:
        """Do about a partition, which nobody has open, what its state asks for. Doing it again changes nothing.

        Raise `LogError`, and what the store raises; what was done until then stays, and the next try goes on.
        """
        if not self.alone_aside:
            for file in state.files:
                if file.standing is Standing.ALONE:
                    return _refused(state, file)
        if state.end is None:
            return await self._without_archive(state)
        aside = await self._put_aside(state)
        generations = await self._make(state, state.end, progress)
        paths = [file.spec.path for file in state.files]
        ahead = state.standing is Standing.AHEAD
        return Outcome(
            str(state.partition),
            _done(state),
            str(state.log.position if ahead else state.end.position),
            state.archived_time if not ahead else await self.threads.run(_newest_time, paths),
            sum(path.stat().st_size for path in paths),
            generations,
            tuple(map(str, aside)),
            unarchived=ahead,
            untold=state.untold,
        )

    async def _without_archive(self, state: PartitionState) -> Outcome:
        """Leave alone what is not archived yet; what never will be is put aside."""
        local = state.standing is Standing.LOCAL
        if not any(standing in NOT_OF_IT for standing in _standings(state)):
            return Outcome(str(state.partition), Done.LOCAL, str(state.log.position), unarchived=local)
        aside = tuple(map(str, await self._put_aside(state)))
        position = state.log.position
        if state.standing is Standing.DIVERGED:
            await self._remove_records(state)
            position = START
        return Outcome(str(state.partition), Done.SET_ASIDE, str(position), aside=aside, unarchived=local)

    async def _put_aside(self, state: PartitionState) -> list[Path]:
        kept: list[Path] = []
        if state.standing is Standing.DIVERGED:
            kept += await keep_tail(self.archive, self.log.reader, state.partition, self.data_dir)
        for file in state.files:
            if file.standing in NOT_OF_IT or file.damage:
                kept.append(await self.threads.run(keep_file, file.spec.path, file.cursor))
        return kept

    async def _make(self, state: PartitionState, end: Cursor, progress: Progress) -> dict[str, str]:
        """Make what is missing, catch up what is behind, and put the newest record into the log if it lacks it.

        Return the generations that were used, by projection.
        """
        seeds = not state.log_holds_end
        missing = [file.spec for file in state.files if file.standing is Standing.MISSING or file.standing in NOT_OF_IT]
        behind = [file.spec for file in state.files if file.standing is Standing.BEHIND and seeds]
        async with AsyncExitStack() as closing:
            fresh = None
            if missing:
                never = [spec.name for spec in missing if self.copied is not None and not self.copied.may_be(spec.name)]
                wanted = replace(_wanted(state, missing, end), never_copied=never)
                making = fresh_files(self.archive, self.threads, wanted, progress=progress)
                fresh = await closing.enter_async_context(making)
            if behind:
                await self._catch_up(_wanted(state, behind, end), progress)
            last = fresh.made.last if fresh is not None else None
            sequence = await self._seed(state, end, last) if seeds else await self._kept_at(state, end)
            if fresh is not None:
                await fresh.install(sequence)
        for file in state.files:
            if file.spec in behind or (file.standing is Standing.CURRENT and file.sequence != sequence):
                await self.threads.run(set_sequence, file.spec.path, sequence)
        used = zip(missing, fresh.made.generations, strict=True) if fresh is not None else ()
        return {spec.name: manifest.position for spec, manifest in used if manifest is not None}

    async def _catch_up(self, wanted: Wanted, progress: Progress) -> None:
        """Fold what the archive has into files that stay where they are; the log here cannot do it."""
        opened: list[Projection] = []
        try:
            for spec in wanted.specs:
                opened.append(await self.threads.run(Projection, spec, wanted.partition))
            await catch_up_from(self.archive, self.threads, wanted, opened, progress=progress)
        finally:
            for projection in opened:
                await self.threads.run(projection.close)

    async def _seed(self, state: PartitionState, end: Cursor, last: Record | None) -> int:
        """Append what the log lacks as it was; return where the log keeps the newest archived record now.

        That is `last`, if it was read already. The log stays without a gap: if too much is missing, only the newest
        record stays in it.
        """
        if state.standing is Standing.BEHIND and end.position.index - state.log.position.index <= APPENDED_MAX:
            sequence = state.log.sequence
            async for entry in self.archive.read(state.partition, state.log, end.position.next()):
                sequence = await self._append(entry.record, sequence)
            return sequence
        record = last or await archived_record(self.archive, state.partition, end)
        if state.standing is not Standing.MISSING:
            await self._remove_records(state)
        return await self._append(record, 0)

    async def _remove_records(self, state: PartitionState) -> None:
        """Remove from the log what was seen there, and nothing that somebody else has appended since."""
        self.guard.check()
        await purge(self.log.admin, state.partition, below=state.log.sequence + 1)

    async def _append(self, record: Record, after: int) -> int:
        outcome = await append(self.log.writer, record, after, self.guard, copy=str(ULID()))
        if not isinstance(outcome, Appended):
            raise LogDamaged(f"somebody else writes {record.partition} while it is restored: stop the other node")
        return outcome.sequence

    async def _kept_at(self, state: PartitionState, end: Cursor) -> int:
        """Return where the log keeps the record at `end`."""
        if state.log.position == end.position:
            return state.log.sequence
        return (await seek(self.log.reader, state.partition, end.position)).sequence


def _wanted(state: PartitionState, specs: Sequence[ProjectionSpec], end: Cursor) -> Wanted:
    assert state.domain is not None, "only a domain has projections"
    return Wanted(state.partition, state.domain, specs, end)


def _refused(state: PartitionState, file: FileState) -> Outcome:
    held = f"its archive ends at {state.end.position}" if state.end else "nothing of it is archived"
    assert file.cursor is not None
    why = (
        f"{file.spec.name} stands at {file.cursor.position}, but the log ends at {state.log.position} and {held}: the "
        "log lost records that only this file has. `forge restore` puts the file aside and goes on with the archive"
    )
    return Outcome(str(state.partition), Done.REFUSED, str(file.cursor.position), problem=why)


def _standings(state: PartitionState) -> Sequence[Standing]:
    return [state.standing, *(file.standing for file in state.files)]


def _done(state: PartitionState) -> Done:
    standings = _standings(state)
    if any(standing in NOT_OF_IT for standing in standings) or any(file.damage for file in state.files):
        return Done.SET_ASIDE
    if Standing.MISSING in standings:
        return Done.RESTORED
    return Done.NOTHING if state.log_holds_end else Done.CAUGHT_UP


def _newest_time(paths: Sequence[Path]) -> str:
    """Return when the newest event that the projections at `paths` hold was written."""
    times = [""]
    for path in paths:
        with closing(connect(path, readonly=True)) as db:
            times.append(str(db.execute("SELECT time FROM _forge_position").get))
    return max(times)
