"""Make one generation of a projection: copy, compare with the archive, store, verify, point at it.

Killed at any step, the next try converges: chunks that are there are found, and so is a manifest without a pointer.
What the table of pages says holds for the generation that it names, and no other: without it chunks are stored whole.
"""

import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from threading import Event
from typing import NamedTuple

import apsw
import structlog
from ulid import ULID

from events.archive import Archive
from projectors.domain import ProjectionSpec
from projectors.generations.errors import GenerationError
from projectors.generations.reading import current, manifest
from projectors.projection import remove_database
from projectors.threads import Threads
from schemas.generation import PAGES, Manifest
from schemas.ids import PartitionId
from workers.generations import metrics
from workers.generations.arrivals import Arrivals
from workers.generations.attempt import Attempt, Stored, Writer
from workers.generations.budget import Budget
from workers.generations.copies import check_space, copy, standing
from workers.generations.gate import Gate
from workers.generations.page_tables import PageTables
from workers.generations.planning import plan
from workers.generations.pointer import move, pointer_to

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
    stored_bytes: int = 0  # for its chunks and patches


class Newest(NamedTuple):
    """The current generation of a projection, the BLAKE3 of its manifest, and whether it was restored and compared."""

    manifest: Manifest
    hash: str
    verified: bool


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
        tables: PageTables,
        *,
        verify: float,
        node: str,
        epoch: int = 1,
        pages: Callable[[str], str] = lambda _: PAGES,
    ) -> None:
        """Copies lie in `scratch`, what is remembered of them in `tables`.

        A share of `verify` is proved, and the first of a projection in an epoch always.

        `pages` says below which folder the chunks of a projection belong.
        """
        self._archive = archive
        self._scratch = scratch
        self._threads = threads
        self._budget = budget
        self._gate = gate
        self._arrivals = arrivals
        self._tables = tables
        self._verify = verify
        self._node = node
        self._epoch = epoch
        self._pages = pages

    async def make(self, partition: PartitionId, spec: ProjectionSpec, *, prove: bool = False) -> Made:
        """Make a generation unless the newest one stands where the projection does; with `prove` it is verified then.

        Raise `NotNow`, `NotArchived`, `GenerationError`, and what store, log and disk raise.
        """
        started = time.monotonic()
        run = self._threads.run
        try:
            size, at = await run(standing, spec.path)
        except (FileNotFoundError, apsw.CantOpenError):
            await run(self._tables.remove, spec.name)
            return Made(spec.name, Result.ABSENT)
        before = await self._newest(spec.name)
        if before is not None and (
            before.manifest.at > at.position or (before.manifest.at == at.position and (before.verified or not prove))
        ):
            return Made(spec.name, Result.UNCHANGED, before.manifest)
        async with self._gate.shared(), self._budget.take(2 * size):
            await run(check_space, self._scratch, 2 * size)
            made = await self._from_copy(partition, spec, before, prove)
        seconds = time.monotonic() - started
        metrics.made.inc()
        metrics.seconds.observe(seconds)
        assert made.generation is not None
        told = {"size_bytes": made.generation.size_bytes, "stored_bytes": made.stored_bytes, "verified": made.verified}
        log.info(
            "generation made",
            projection=spec.name,
            position=made.generation.position,
            patches=len(made.generation.patches),
            seconds=round(seconds, 3),
            **told,
        )
        return made

    async def _newest(self, projection: str) -> Newest | None:
        try:
            if (pointer := await current(self._archive, projection)) is None:
                return None
            found = await manifest(self._archive, projection, pointer.at, pointer.manifest)
            return Newest(found, pointer.manifest, pointer.verified)
        except GenerationError as error:
            log.error("generation not usable", projection=projection, reason=str(error))
            return None

    async def _from_copy(
        self, partition: PartitionId, spec: ProjectionSpec, newest: Newest | None, prove: bool
    ) -> Made:
        path, pages = self._scratch / f"{ULID()}.copy", self._pages(spec.name)
        writer = Writer(self._node, self._epoch, pages)
        run, stopping = self._threads.run, Event()
        before = newest.manifest if newest else None
        table = None
        if newest is not None and newest.manifest.pages == pages:
            table = await run(self._tables.read, spec.name, newest.hash)
        try:
            chunk_bytes = before.chunk_bytes if before else None
            copied = await run(copy, spec.path, path, chunk_bytes, table, stopping, interrupt=stopping.set)
            await self._arrivals.wait(partition, copied.found.cursor.position)
            attempt = Attempt(self._archive, self._scratch, self._threads, spec.name, copied, before, writer)
            stored = await attempt.store(plan(copied.cut, table))
            is_first = before is None or before.at.epoch < stored.manifest.at.epoch
            verified = prove or not stored.is_new or is_first or self._is_sampled(stored.manifest)
            if verified:
                stored = await attempt.prove(stored)
            pointer = pointer_to(stored.manifest, stored.data, verified=verified, node=self._node)
            if (await move(self._archive, pointer)).manifest == pointer.manifest:
                await run(self._remember, spec.name, stored)
            return Made(spec.name, Result.MADE, stored.manifest, verified, attempt.stored_bytes)
        finally:
            await run(remove_database, path)

    def _remember(self, name: str, stored: Stored) -> None:
        """Keep what the next generation needs to tell which pages have changed."""
        try:
            if stored.table is not None:
                self._tables.write(name, stored.table)
            elif stored.is_new:  # else whoever made it may have remembered its pages, and what does not fit is not used
                self._tables.remove(name)
        except OSError as error:
            log.warning("table of pages not written", projection=name, reason=str(error))

    def _is_sampled(self, generation: Manifest) -> bool:
        return int(generation.file[:8], 16) < self._verify * 2**32
