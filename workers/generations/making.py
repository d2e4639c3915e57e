"""Make one generation of a projection: copy, compare with the archive, store, verify, point at it.

Killed at any step, the next try converges: chunks that are there are found, and so is a manifest without a pointer.
"""

import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from threading import Event
from typing import NamedTuple

import apsw
import structlog
from blake3 import blake3
from ulid import ULID

from events.archive import Archive
from events.cursor import Cursor
from events.objects.errors import ObjectMissing, PreconditionFailed, StoreUnavailable
from projectors.copying import Examined, copy_projection, examine
from projectors.domain import ProjectionSpec
from projectors.generations.errors import GenerationError
from projectors.generations.fetching import fetch
from projectors.generations.reading import check_history, latest, manifest
from projectors.projection import connect, read_cursor, remove_database
from projectors.threads import Threads
from schemas.generation import PAGES, Manifest
from schemas.ids import PartitionId
from schemas.instants import now
from workers.generations import metrics
from workers.generations.arrivals import Arrivals
from workers.generations.budget import Budget
from workers.generations.chunking import Cut, cut
from workers.generations.failures import NotNow
from workers.generations.gate import Gate
from workers.generations.pointer import move, pointer_to
from workers.generations.uploading import mend, upload

DIGEST_BYTES_MAX = 256 << 20
"""Files up to so large tell the digest of their content: it takes a walk over all rows, some seconds for such a one."""
SPACE_LEFT_BYTES = 256 << 20  # on the disk of the copies, whatever is made

log = structlog.get_logger(__name__)


class Result(Enum):
    """What became of the wish for a generation."""

    MADE = "made"
    UNCHANGED = "unchanged"
    ABSENT = "absent"


class Made(NamedTuple):
    """One projection, what became of it, and the generation that it has now."""

    projection: str
    result: Result
    generation: Manifest | None = None
    verified: bool = False


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy of a projection on disk, and what it holds."""

    path: Path
    found: Examined
    cut: Cut


class Maker:
    """Makes generations, one after the other or several at the same time."""

    def __init__(
        self,
        archive: Archive,
        scratch: Path,
        threads: Threads,
        budget: Budget,
        gate: Gate,
        arrivals: Arrivals,
        *,
        verify: float,
        node: str,
        epoch: int = 1,
        pages: Callable[[str], str] = lambda _: PAGES,
    ) -> None:
        """Copies lie in `scratch`. A share of `verify` is proved, and the first of a projection in an epoch always.

        `pages` says below which folder the chunks of a projection belong.
        """
        self._archive = archive
        self._scratch = scratch
        self._threads = threads
        self._budget = budget
        self._gate = gate
        self._arrivals = arrivals
        self._verify = verify
        self._node = node
        self._epoch = epoch
        self._pages = pages

    async def make(self, partition: PartitionId, spec: ProjectionSpec) -> Made:
        """Make a generation unless the newest one stands where the projection does.

        Raise `NotNow`, `NotArchived`, `GenerationError`, and what store, log and disk raise.
        """
        started = time.monotonic()
        try:
            size, at = await self._threads.run(_standing, spec.path)
        except (FileNotFoundError, apsw.CantOpenError):
            return Made(spec.name, Result.ABSENT)
        try:
            before = await latest(self._archive, spec.name)
        except GenerationError as error:
            log.error("generation not usable", projection=spec.name, reason=str(error))
            before = None
        if before is not None and before.at >= at.position:
            return Made(spec.name, Result.UNCHANGED, before)
        async with self._gate.shared(), self._budget.take(2 * size):
            await self._threads.run(_check_space, self._scratch, 2 * size)
            made = await self._from_copy(partition, spec, before)
        seconds = time.monotonic() - started
        metrics.made.inc()
        metrics.seconds.observe(seconds)
        assert made.generation is not None
        told = {"size_bytes": made.generation.size_bytes, "seconds": round(seconds, 3), "verified": made.verified}
        log.info("generation made", projection=spec.name, position=made.generation.position, **told)
        return made

    async def _from_copy(self, partition: PartitionId, spec: ProjectionSpec, before: Manifest | None) -> Made:
        path = self._scratch / f"{ULID()}.copy"
        chunk_bytes = before.chunk_bytes if before else None
        run, stopping = self._threads.run, Event()
        try:
            copied = await run(_copy, spec.path, path, chunk_bytes, stopping, interrupt=stopping.set)
            await self._arrivals.wait(partition, copied.found.cursor.position)
            chunks, parts = await upload(self._archive, path, copied.cut, before, self._pages(spec.name))
            wanted = self._manifest(spec, copied, chunks, parts, before)
            await check_history(self._archive, wanted)
            generation, data, is_new = await self._store(wanted)
            is_first = before is None or before.at.epoch < generation.at.epoch
            verified = not is_new or is_first or self._is_sampled(generation)
            if verified:
                await self._prove(generation, copied)
            await move(self._archive, pointer_to(generation, data, verified=verified, node=self._node))
            return Made(spec.name, Result.MADE, generation, verified)
        finally:
            await run(remove_database, path)

    def _manifest(
        self, spec: ProjectionSpec, copied: Copied, chunks: list[str], parts: list[str], before: Manifest | None
    ) -> Manifest:
        found, cut = copied.found, copied.cut
        return Manifest(
            projection=spec.name,
            partition=found.partition,
            position=str(found.cursor.position),
            hash=found.cursor.hash,
            sequence=found.cursor.sequence,
            time=found.time,
            version=found.version,
            size_bytes=cut.size_bytes,
            page_size=found.page_size,
            file=cut.file,
            digest=found.digest,
            chunk_bytes=cut.chunk_bytes,
            pages=self._pages(spec.name),
            chunks=chunks,
            parts=parts,
            previous=before.position if before else None,
            epoch=self._epoch,
            node=self._node,
            created_at=now(),
        )

    async def _store(self, wanted: Manifest) -> tuple[Manifest, bytes, bool]:
        """Store a manifest, or take the one that is there; return it with its bytes, and whether it is new.

        One that is there is of an attempt that did not come to its end: at the same position, so it does as well.
        """
        key, data = self._archive.key(str(wanted.key)), wanted.model_dump_json().encode()
        store = self._archive.store
        try:
            await store.create(key, data)
        except PreconditionFailed:
            try:
                data = (await store.get(key)).data
                there = await manifest(self._archive, wanted.projection, wanted.at, blake3(data).hexdigest())
            except ObjectMissing as error:
                raise StoreUnavailable(f"{key} was said to exist, but does not") from error
            if (there.partition, there.hash, there.version) == (wanted.partition, wanted.hash, wanted.version):
                return there, data, False
            await store.delete(key)
            raise NotNow(f"{key} was one of another version or history: it is made again") from None
        return wanted, data, True

    def _is_sampled(self, generation: Manifest) -> bool:
        return int(generation.file[:8], 16) < self._verify * 2**32

    async def _prove(self, generation: Manifest, copied: Copied) -> None:
        """Restore a generation and compare it with what was copied; one that stays damaged is removed."""
        try:
            try:
                await self._restore(generation)
            except GenerationError as error:
                metrics.damaged.inc()
                log.error("generation damaged", generation=str(generation.key), reason=str(error))
                if generation.file != copied.cut.file:
                    raise  # what would mend it is not here
                await mend(self._archive, copied.path, copied.cut, generation.pages)
                await self._restore(generation)
        except GenerationError:
            await self._archive.store.delete(self._archive.key(str(generation.key)))
            raise
        metrics.verified.inc()

    async def _restore(self, generation: Manifest) -> None:
        path = self._scratch / f"{ULID()}.proof"
        await fetch(self._archive, generation, path)
        await self._threads.run(remove_database, path)


def _standing(path: Path) -> tuple[int, Cursor]:
    """Return the size of a projection, and where it stands."""
    with closing(connect(path, readonly=True)) as db:
        return path.stat().st_size, read_cursor(db)


def _check_space(scratch: Path, size_bytes: int) -> None:
    scratch.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(scratch).free) < size_bytes + SPACE_LEFT_BYTES:
        raise NotNow(f"{scratch} has {free} bytes left, and a copy takes {size_bytes}")


def _copy(source: Path, path: Path, chunk_bytes: int | None, stopping: Event) -> Copied:
    copy_projection(source, path, stopping)
    found = examine(path, stopping, digests=path.stat().st_size <= DIGEST_BYTES_MAX)
    return Copied(path, found, cut(path, chunk_bytes, stopping))
