"""Copies of documents at an exact position, made beside the writer, kept for a while and never half done."""

import asyncio
import hashlib
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import apsw
import structlog
from ulid import ULID

from projectors.copying import copy_projection, examine
from projectors.document.domain import document_path
from projectors.projection import remove_database
from projectors.threads import Threads
from schemas.ids import Position, escape
from schemas.instants import now
from schemas.problems import DISK_FULL, INTERNAL, UNAVAILABLE, Refusal
from schemas.snapshot import SnapshotMeta

THREADS = 2  # snapshots that are made at the same time; more wait
KEPT_PER_DOCUMENT = 2
BYTES_MAX = 4 << 30  # of all that are kept; a single larger one is kept alone
FRESH_S = 3.0  # so long a snapshot is given out although the document has moved on
IDLE_S = 900.0  # an interrupted download can go on so long

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Snapshot:
    """One finished copy. `meta` describes it; `used_s` is when it was asked for last (monotonic)."""

    meta: SnapshotMeta
    path: Path
    made_s: float
    used_s: float

    @property
    def position(self) -> Position:
        """Exactly where the document stood."""
        return Position(self.meta.epoch, self.meta.index)


class Snapshots:
    """All snapshots of a node, in a directory of its own that is emptied at start."""

    def __init__(
        self,
        docs_dir: Path,
        directory: Path,
        ready: Callable[[str, Position | None], Awaitable[Position]],
        *,
        bytes_max: int = BYTES_MAX,
        fresh_s: float = FRESH_S,
        idle_s: float = IDLE_S,
    ) -> None:
        """`ready` waits until a document's file can be read at a position and returns where it stands, or refuses."""
        self._docs_dir = docs_dir
        self._directory = directory
        self._ready = ready
        self._bytes_max = bytes_max
        self._fresh_s = fresh_s
        self._idle_s = idle_s
        self._kept: dict[str, list[Snapshot]] = {}  # oldest first
        self._making: dict[str, asyncio.Lock] = {}
        self._threads = Threads(THREADS, "snapshot")
        self._stopping = Event()
        self._timer: asyncio.TimerHandle | None = None
        shutil.rmtree(directory, ignore_errors=True)  # what an earlier process left may be half written

    def find(self, db_id: str, generation: str) -> Snapshot | None:
        """Return a snapshot that is still kept, by its name."""
        for snapshot in self._kept.get(db_id, ()):
            if snapshot.meta.generation == generation:
                snapshot.used_s = time.monotonic()
                return snapshot
        return None

    async def latest(self, db_id: str, at_least: Position | None = None) -> Snapshot:
        """Return a snapshot at the document's position, or one that is a few seconds old but not before `at_least`.

        Raise `Refusal`: 503 if the document cannot be read now or the disk is full, 500 if the file is damaged.
        """
        lock = self._making.setdefault(db_id, asyncio.Lock())
        async with lock:
            position = await self._ready(db_id, at_least)
            newest = next(reversed(self._kept.get(db_id, [])), None)
            if newest is None or not self._serves(newest, position, at_least):
                newest = await self._threads.run(self._make, db_id, newest.meta.generation if newest else None)
                self._keep(newest)
        newest.used_s = time.monotonic()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle_s / 2, self._sweep)
        return newest

    def _serves(self, newest: Snapshot, position: Position, at_least: Position | None) -> bool:
        fresh = time.monotonic() - newest.made_s < self._fresh_s
        return newest.position == position or (fresh and (at_least is None or newest.position >= at_least))

    def _make(self, db_id: str, previous: str | None) -> Snapshot:
        started_s = time.monotonic()
        folder = self._directory / escape(db_id)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{ULID()}.part"
        try:
            copy_projection(document_path(self._docs_dir, db_id), part, self._stopping)
            meta = _examine(part, db_id, previous, self._stopping)
            path = part.rename(folder / f"{meta.generation}.db")
        except apsw.InterruptError as error:
            raise Refusal(UNAVAILABLE.problem("this node is stopping")) from error
        except (apsw.FullError, OSError) as error:
            raise Refusal(DISK_FULL.problem(f"no snapshot of {db_id} can be made in {folder}: {error}")) from error
        except apsw.Error as error:
            log.error("snapshot failed", db_id=db_id, reason=str(error))
            raise Refusal(INTERNAL.problem(f"no snapshot of {db_id} can be made: {error}")) from error
        finally:
            remove_database(part)
        ended_s = time.monotonic()
        size = {"size_bytes": meta.size_bytes, "seconds": round(ended_s - started_s, 3)}
        log.info("snapshot taken", db_id=db_id, position=meta.position, **size)
        return Snapshot(meta, path, ended_s, ended_s)

    def _keep(self, snapshot: Snapshot) -> None:
        kept = self._kept.setdefault(snapshot.meta.db_id, [])
        for same in [one for one in kept if one.meta.generation == snapshot.meta.generation]:
            kept.remove(same)  # its file was just replaced by the same bytes
        kept.append(snapshot)
        while len(kept) > KEPT_PER_DOCUMENT:
            self._drop(kept[0])
        everything = sorted((one for kept in self._kept.values() for one in kept), key=lambda one: one.used_s)
        total = sum(one.meta.size_bytes for one in everything)
        for one in everything:
            if total <= self._bytes_max:
                break
            if one is not snapshot:
                total -= one.meta.size_bytes
                self._drop(one)

    def _sweep(self) -> None:
        """Remove what nobody has asked for in a while; look again as long as something is kept."""
        self._timer = None
        now_s = time.monotonic()
        for snapshot in [one for kept in self._kept.values() for one in kept if now_s - one.used_s > self._idle_s]:
            self._drop(snapshot)
        for db_id in [db_id for db_id, lock in self._making.items() if not lock.locked() and db_id not in self._kept]:
            del self._making[db_id]
        if self._kept:
            self._timer = asyncio.get_running_loop().call_later(self._idle_s / 2, self._sweep)

    def _drop(self, snapshot: Snapshot) -> None:
        kept = self._kept[snapshot.meta.db_id]
        kept.remove(snapshot)
        if not kept:
            del self._kept[snapshot.meta.db_id]
        snapshot.path.unlink(missing_ok=True)  # whoever is reading it keeps it until the end

    def close(self) -> None:
        """Interrupt what is being made, and remove everything."""
        self._stopping.set()
        if self._timer is not None:
            self._timer.cancel()
        self._threads.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def _examine(path: Path, db_id: str, previous: str | None, stopping: Event) -> SnapshotMeta:
    """Check a copy and describe it; raise `apsw.CorruptError` if it is damaged, `apsw.InterruptError` if told to."""
    found = examine(path, stopping)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    position = found.cursor.position
    return SnapshotMeta(
        db_id=db_id,
        generation=f"{position}-{sha256[:16]}",
        position=str(position),
        epoch=position.epoch,
        index=position.index,
        cursor={"segment": position.epoch, "offset": position.index},
        hash=found.cursor.hash,
        digest=str(found.digest),
        sha256=sha256,
        size_bytes=path.stat().st_size,
        page_size=found.page_size,
        schema_version=found.version,
        created_at=now(),
        previous=previous,
    )
