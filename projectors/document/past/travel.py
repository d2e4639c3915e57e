"""Time travel: a document as it was at a position or a time, folded from its history, or from a generation of it."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import apsw
import structlog

from events.append import last_message
from events.archive import Archive
from events.connection import Connection
from events.cursor import Cursor, Extent
from events.errors import HistoryBegins, LogDamaged, LogError
from events.objects.errors import StoreError
from events.seek import BelowFloor, BeyondHead, OtherHistory, seek, seek_time
from projectors.catch_up import catch_up
from projectors.document.domain import document_partition
from projectors.document.past.copies import Copies, Copy, Moment
from projectors.domain import Domain
from projectors.generations.beginning import begin, earliest
from projectors.projection import Projection, remove_database
from projectors.threads import Threads
from schemas.ids import START, PartitionId, Position
from schemas.instants import now
from schemas.problems import (
    CONFLICT,
    DISK_FULL,
    HISTORY_GONE,
    INVALID_PARAMETER,
    PARTITION_STOPPED,
    UNAVAILABLE,
    Refusal,
)

FOLDS_MAX = 2
MAKING_MAX = 64  # copies that are made or wait for it
FOLD_WAIT_S = 60.0
KEEP_EVERY_RECORDS = 10_000
KEPT_ON_THE_WAY_MAX = 8
SHARE_ON_THE_WAY = 16  # a copy on the way is kept if at least so many of its size have space

log = structlog.get_logger(__name__)


class TimeTravel:
    """The past of all documents of a node. `close` it when done."""

    def __init__(
        self,
        reader: Connection,
        domain: Domain,
        directory: Path,
        *,
        bytes_max: int,
        keep_every_records: int = KEEP_EVERY_RECORDS,
        making_max: int = MAKING_MAX,
        place: Callable[[PartitionId, Position], Awaitable[Cursor]] | None = None,
        archive: Archive | None = None,
    ) -> None:
        """Copies lie in `directory` and take `bytes_max` at most, but for those in use.

        `place` finds the cursor at a position (default: by asking the log every time). Generations in `archive` save
        the folding of what is more than `keep_every_records` away.
        """
        self._reader = reader
        self._place = place or partial(seek, reader)
        self._archive = archive
        self._domain = domain
        (spec,) = domain.projections("any")
        self.copies = Copies(directory, spec.version, bytes_max=bytes_max)
        self._on_the_way_bytes_max = bytes_max // SHARE_ON_THE_WAY
        self._keep_every_records = keep_every_records
        self._making_max = making_max
        self._threads = Threads(FOLDS_MAX, "time travel")
        self._folds = asyncio.Semaphore(FOLDS_MAX)
        self._making: dict[Moment, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def at(self, db_id: str, moment: Position | str) -> AsyncIterator[Copy]:
        """Hold a file with the document at a position, or after the last record at or before an instant.

        Raise `Refusal`: 400 for the future, 409 for another history, 410 for what the log no longer holds, 503 while
        the copy is being made for longer than `FOLD_WAIT_S` (it goes on, and the next try finds it).
        """
        cursor = await self._resolve(db_id, moment)
        with self.copies.use(Moment(db_id, cursor.position, cursor.hash)) as copy:
            if not copy.size_bytes:
                await self._made(copy, cursor)
            yield copy

    async def has_history(self, db_id: str) -> bool:
        """Say whether anything was ever written to a document of this name; raise `Refusal` (503)."""
        with _log_refusals():
            return await last_message(self._reader, document_partition(db_id)) is not None

    async def _resolve(self, db_id: str, moment: Position | str) -> Cursor:
        partition = document_partition(db_id)
        with _log_refusals():
            if not isinstance(moment, Position) and moment > (present := now()):
                raise Refusal(INVALID_PARAMETER.problem(f"{moment} is in the future: it is {present}", field="at"))
            try:
                if isinstance(moment, Position):
                    return await self._place(partition, moment)
                return await seek_time(self._reader, partition, moment)
            except BelowFloor as error:
                why = f"{db_id} {await self._readable(db_id)}: {error}"
                raise BelowFloor(why, Extent(error.floor, error.head)) from error

    async def _made(self, copy: Copy, cursor: Cursor) -> None:
        """Wait until the copy is there, together with all others who want it."""
        task = self._making.get(copy.moment)
        if task is None:
            if len(self._making) >= self._making_max:
                why = f"{self._making_max} copies of the past are being made or wait for it"
                raise Refusal(UNAVAILABLE.problem(why, retry_after_s=10))
            task = self._making[copy.moment] = asyncio.create_task(self._make(copy.moment, cursor))
            task.add_done_callback(partial(self._was_made, copy.moment))
        done, _ = await asyncio.wait({task}, timeout=FOLD_WAIT_S)
        if not done:
            why = f"{copy.moment.db_id} at {copy.moment.position} is still being made from its history"
            raise Refusal(UNAVAILABLE.problem(why, retry_after_s=10))
        with _log_refusals():
            task.result()

    def _was_made(self, moment: Moment, task: "asyncio.Task[None]") -> None:
        del self._making[moment]
        if not task.cancelled():
            task.exception()  # whoever waits has it too; perhaps nobody does any more

    async def _make(self, moment: Moment, cursor: Cursor) -> None:
        async with self._folds:
            with self.copies.use(moment):  # also when nobody waits any more
                path = self.copies.temporary(moment)
                try:
                    await self._fold(path, moment.db_id, cursor)
                    self.copies.finish(path, cursor, moment.db_id)
                finally:
                    await self._threads.run(remove_database, path)

    async def _fold(self, path: Path, db_id: str, cursor: Cursor) -> None:
        """Fold history up to `cursor` into a new file at `path`; where its beginning is gone, on a generation."""
        try:
            return await self._fold_nearest(path, db_id, cursor)
        except HistoryBegins as error:
            if self._archive is None:
                raise
            await self._threads.run(remove_database, path)
            (spec,) = self._domain.projections(db_id)
            if await begin(self._archive, spec, path, cursor.position, refused=[]) is None:
                why = f"{db_id} {await self._readable(db_id)}, not at {cursor.position}"
                raise HistoryBegins(why, error.floor) from error
        await self._fold_on(path, db_id, cursor)

    async def _readable(self, db_id: str) -> str:
        """Say from where on a document can be read whose history is not kept from the beginning on."""
        (spec,) = self._domain.projections(db_id)
        first = await earliest(self._archive, document_partition(db_id), spec) if self._archive is not None else None
        return f"can be read as it was from {first} on" if first else "cannot be read as it was then"

    async def _fold_nearest(self, path: Path, db_id: str, cursor: Cursor) -> None:
        """Fold on top of the nearest copy or generation before a place, or from the beginning."""
        nearest = self.copies.nearest(db_id, cursor.position)
        known = nearest.position if nearest else START
        if cursor.position.index - known.index > self._keep_every_records:
            fetched = await self._fetched(path, db_id, known, cursor.position)
            if fetched and await self._goes_on(path, db_id, cursor):
                return
        if nearest is not None:
            with self.copies.use(nearest) as copy:
                await self._threads.run(shutil.copyfile, copy.path, path)
            if await self._goes_on(path, db_id, cursor):
                return
            self.copies.forget(nearest)
        await self._fold_on(path, db_id, cursor)

    async def _fetched(self, path: Path, db_id: str, after: Position, until: Position) -> bool:
        """Put the newest generation between two positions at `path`; say whether there is one that can be used."""
        if self._archive is None:
            return False
        (spec,) = self._domain.projections(db_id)
        try:
            return await begin(self._archive, spec, path, until, after=after, refused=[]) is not None
        except (LogError, StoreError) as error:
            log.warning("history is folded without a generation", document=db_id, reason=str(error))
            return False

    async def _goes_on(self, path: Path, db_id: str, cursor: Cursor) -> bool:
        """Fold on top of the file at `path`; if it is damaged, or of another history, say so and remove it."""
        try:
            await self._fold_on(path, db_id, cursor)
        except HistoryBegins:
            raise
        except (LogDamaged, apsw.CorruptError, apsw.NotADBError):  # if it is the log, it will be said again
            await self._threads.run(remove_database, path)
            return False
        return True

    async def _fold_on(self, path: Path, db_id: str, cursor: Cursor) -> None:
        partition = document_partition(db_id)
        (spec,) = self._domain.projections(db_id)
        projection = await self._threads.run(partial(Projection, spec, partition, path, durable=False))
        try:
            for stop in self._stops(projection.cursor.position, cursor.position):
                await catch_up(self._reader, self._threads, self._domain, partition, [projection], until=stop)
                if stop != cursor.position:
                    await self._keep(path, db_id, projection.cursor)
            if projection.cursor.hash != cursor.hash:
                raise LogDamaged(f"{partition}: the copy at {projection.cursor.position} is of another history")
        finally:
            await self._threads.run(projection.close)

    async def _keep(self, path: Path, db_id: str, cursor: Cursor) -> None:
        """Keep what is folded so far: whoever asks for a position soon after begins there."""
        beside = path.with_suffix(".way")
        if await self._threads.run(_copied, path, beside, self._on_the_way_bytes_max):
            self.copies.finish(beside, cursor, db_id)

    def _stops(self, start: Position, end: Position) -> Iterator[Position]:
        """Yield where to stop on the way from `start` to `end`, and the end."""
        every = self._keep_every_records
        between = range((start.index // every + 1) * every, end.index, every)
        for index in between[-KEPT_ON_THE_WAY_MAX:]:
            yield Position(end.epoch, index)  # wherever that record is: histories are counted over all epochs
        yield end

    async def close(self) -> None:
        """Give up what is being made; nobody may hold a copy."""
        tasks = list(self._making.values())
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task
        await asyncio.to_thread(self._threads.close)


@contextmanager
def _log_refusals() -> Iterator[None]:
    """Turn what the log and the disk say into refusals."""
    try:
        yield
    except BeyondHead as error:
        raise Refusal(INVALID_PARAMETER.problem(str(error), field="at")) from error
    except OtherHistory as error:
        raise Refusal(CONFLICT.problem(str(error), field="at")) from error
    except (BelowFloor, HistoryBegins) as error:
        raise Refusal(HISTORY_GONE.problem(str(error), field="at")) from error
    except LogDamaged as error:
        raise Refusal(PARTITION_STOPPED.problem(str(error))) from error
    except (LogError, StoreError) as error:
        raise Refusal(UNAVAILABLE.problem(f"the log is away: {error}")) from error
    except (apsw.FullError, OSError) as error:
        raise Refusal(DISK_FULL.problem(f"there is no space for a copy: {error}")) from error


def _copied(path: Path, beside: Path, bytes_max: int) -> bool:
    """Copy a file unless it is larger than `bytes_max`; say whether it was done."""
    if path.stat().st_size > bytes_max:
        return False
    shutil.copyfile(path, beside)
    return True
