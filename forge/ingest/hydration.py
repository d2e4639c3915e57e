"""The local copy of the embeddings that an ingest asks first, brought to where the archive stands.

Nothing here keeps an ingest from running: what cannot be done is told, and the copy that is there is used as it is.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from threading import Event

import apsw

from events.archive import Archive
from events.archived_place import archived_end
from events.cursor import Cursor
from events.errors import LogDamaged, LogError, UnknownEvent
from events.objects.errors import StoreError
from forge.object_storage import archive as opened_archive
from forge.replica.errors import FileRefused
from forge.replica.lock import FollowerLock
from forge.restore.aside import keep_file
from forge.restore.fresh import Wanted, catch_up_from, fresh_files
from projectors.copying import Examined, examine
from projectors.generations.errors import GenerationError
from projectors.projection import Projection, WrongProjection, connect
from projectors.threads import Threads
from projectors.vector.domain import PARTITION, vector_domain
from schemas.settings import InvalidSettings, Settings

ASK_S = 5.0  # until an object store that does not say where it stands counts as away
HERE = (apsw.Error, OSError, FileRefused, WrongProjection)
AWAY = (LogError, StoreError, GenerationError, InvalidSettings)


class State(StrEnum):
    """What a copy is after it was looked after."""

    CURRENT = "current"
    CAUGHT_UP = "caught up"
    FETCHED = "fetched"
    STALE = "stale"
    """It is used as it is: it could not be compared with the archive, or not brought on."""
    FOREIGN = "foreign"
    """It is used as it is: somebody else made it, or the node itself."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Hydrated:
    """A copy: up to which position it has everything, and when the newest entry there was written (empty: unknown).

    `why` says what kept it from being current; `aside` is what a damaged file was renamed to.
    """

    state: State
    position: str = ""
    time: str = ""
    why: str = ""
    aside: str = ""


OpenArchive = Callable[[Settings], AbstractAsyncContextManager[Archive | None]]


async def hydrate(settings: Settings, path: Path, open_archive: OpenArchive = opened_archive) -> Hydrated:
    """Bring the copy at `path` to where the archive of `settings` stands; make it if there is none that fits."""
    with Threads(1, "hydrate") as threads:
        if await threads.run(path.is_dir):
            return _a_folder(path)
        if await threads.run(_is_foreign, settings, path):
            return Hydrated(State.FOREIGN)
        try:
            return await _locked(settings, threads, path, open_archive)
        except (*HERE, *AWAY, TimeoutError) as error:
            why = _why(error)
        left = await _as_it_is(threads, path)  # a part may have been brought on
        return replace(left, why=f"{why}; {left.why}" if left.why else why)


async def as_it_is(path: Path) -> Hydrated:
    """Say what the copy at `path` is, if nobody is to bring it anywhere."""
    with Threads(1, "hydrate") as threads:
        return _a_folder(path) if await threads.run(path.is_dir) else await _as_it_is(threads, path)


def _a_folder(path: Path) -> Hydrated:
    return Hydrated(State.NONE, why=f"{path} is a folder: name a file, such as {path / 'embeddings.db'}")


async def _as_it_is(threads: Threads, path: Path) -> Hydrated:
    try:
        said = await _examined(threads, path)
    except apsw.SQLError:
        return Hydrated(State.FOREIGN)  # a sound database that is no projection
    except (apsw.Error, OSError) as error:
        return Hydrated(State.NONE, why=f"{path} cannot be used: {error}")
    return Hydrated(State.NONE) if said is None else Hydrated(State.STALE, str(said.cursor.position), said.time)


def _is_foreign(settings: Settings, path: Path) -> bool:
    """Say whether the file is the node's own, which has a writer, or a database that is no projection."""
    try:
        if settings.vector_embed_db.exists() and path.samefile(settings.vector_embed_db):
            return True
        with closing(connect(path, readonly=True)) as db:
            return path.stat().st_size > 0 and not db.table_exists("main", "_forge_position")
    except (OSError, apsw.Error):
        return False  # missing, or damaged


async def _examined(threads: Threads, path: Path) -> Examined | None:
    """Return what a sound projection says, None if there is none; raise `apsw.Error` for anything else."""

    def found() -> Examined | None:
        if not path.exists() or not path.stat().st_size:
            return None
        return examine(path, Event(), digests=False, check="integrity_check")

    return await threads.run(found)


async def _locked(settings: Settings, threads: Threads, path: Path, open_archive: OpenArchive) -> Hydrated:
    await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
    lock = FollowerLock.take(path)
    try:
        async with open_archive(settings) as archive:
            if archive is None:
                return await _as_it_is(threads, path)
            return await _Hydration(settings, threads, path, archive).run()
    finally:
        lock.release()


class _Hydration:
    """One run, by the only process that changes the copy."""

    def __init__(self, settings: Settings, threads: Threads, path: Path, archive: Archive) -> None:
        self._threads = threads
        self._path = path
        self._archive = archive
        self._domain = vector_domain(
            settings.vector_queue_db,
            path,
            pending_max=settings.vector_max_pending_jobs,
            attempts_max=settings.vector_max_job_attempts,
        )
        *_, self._spec = self._domain.projections(PARTITION.key)
        self._aside = ""

    async def run(self) -> Hydrated:
        async with asyncio.timeout(ASK_S):
            place = await archived_end(self._archive, PARTITION)
        here = await self._here()
        if here is not None and _equal(here.cursor, place.cursor):
            return Hydrated(State.CURRENT, str(here.cursor.position), here.time)
        if not place.cursor.position.index:
            return Hydrated(
                State.NONE, why=f"nothing of the vector service is archived in {self._archive.name}", aside=self._aside
            )
        wanted = Wanted(PARTITION, self._domain, [self._spec], place.cursor)
        state = State.FETCHED
        if here is not None and await self._caught_up(here, wanted):
            state = State.CAUGHT_UP
        else:
            async with fresh_files(self._archive, self._threads, wanted) as fresh:
                await fresh.install(place.cursor.sequence)
        return Hydrated(state, str(place.cursor.position), place.time, aside=self._aside)

    async def _here(self) -> Examined | None:
        """Return what the copy is if it can be brought on; a damaged one gets another name."""
        try:
            found = await _examined(self._threads, self._path)
        except (apsw.CorruptError, apsw.NotADBError):
            self._aside = str(await self._threads.run(keep_file, self._path, None))
            return None
        fits = found is not None and (found.partition, found.version) == (PARTITION.subject, self._spec.version)
        return found if fits else None

    async def _caught_up(self, here: Examined, wanted: Wanted) -> bool:
        """Fold what is missing; return whether the copy is of this history, and the archive has what follows it."""
        if here.cursor.position > wanted.end.position:
            return False
        projection = await self._threads.run(partial(Projection, self._spec, PARTITION))
        try:
            await catch_up_from(self._archive, self._threads, wanted, [projection])
            return True
        except UnknownEvent:
            raise  # no other copy would know it
        except LogDamaged:
            return False
        finally:
            await self._threads.run(projection.close)


def _equal(one: Cursor, other: Cursor) -> bool:
    return (one.position, one.hash) == (other.position, other.hash)


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"the object store does not answer within {ASK_S:g} s"
    return str(error) or type(error).__name__
