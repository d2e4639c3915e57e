"""The maker of generations of a node, wired: what it copies, where copies lie, and what it says of itself."""

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Self

from events.archive import Archive
from events.objects.errors import StoreError
from forge.domains import domains, projection_named
from forge.restore.proof import Prover
from projectors.domain import Domain, ProjectionSpec
from projectors.generations.errors import GenerationError
from projectors.generations.reading import current
from projectors.threads import Threads
from schemas.encryption import parse_areas
from schemas.generation import Manifest, pages_of
from schemas.ids import InvalidId, PartitionId
from schemas.instants import now
from schemas.problems import NOT_FOUND, UNAVAILABLE, Refusal
from schemas.replicate import GenerationMade, GenerationReply
from schemas.settings import Settings
from workers.archive.looks import Looks
from workers.generations.arrivals import Arrivals
from workers.generations.budget import Budget
from workers.generations.failures import FAILURES
from workers.generations.follower import Generations
from workers.generations.gate import Gate
from workers.generations.making import Maker, Result
from workers.generations.page_tables import PageTables
from workers.generations.progress import Policy
from workers.generations.pruning import Followers, History, Pruner
from workers.generations.retention import thin
from workers.generations.sweeper import Sweeper

SCRATCH, PROOFS = "scratch", "proofs"
ANSWER_S = 15.0  # so long a request waits for what it asked for, which goes on afterwards
ASKED_MAX = 64  # generations that were asked for and are not done
LOOKED_UP_AT_ONCE = 8


class GenerationService:
    """Generations as a part of the node."""

    def __init__(self, archive: Archive, settings: Settings) -> None:
        self._archive = archive
        self._domains = domains(settings)
        self._settings = settings
        self._asked: dict[str, asyncio.Task[GenerationMade]] = {}
        self._looking = asyncio.Semaphore(LOOKED_UP_AT_ONCE)
        self._folder = settings.cache_dir / "generations"
        self._gate = Gate()
        self.generations: Generations

    async def open(self, settings: Settings, epoch: int, closing: AsyncExitStack) -> Self:
        """Begin to make generations of what is archived; `closing` ends it."""
        scratch = self._folder / SCRATCH
        await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)  # what an earlier process left
        threads = Threads(settings.generation_concurrency, "generation")
        closing.push_async_callback(asyncio.to_thread, threads.close)
        arrivals = Arrivals(self._archive)
        maker = Maker(
            self._archive,
            scratch,
            threads,
            Budget(settings.generation_scratch_bytes),
            self._gate,
            arrivals,
            PageTables(self._folder / "pages", scratch),
            verify=settings.generation_verify,
            node=settings.node_id,
            epoch=epoch,
            pages=lambda projection: pages_of(projection, parse_areas(settings.encrypt)),
        )
        self.generations = Generations(
            self._archive,
            maker,
            arrivals,
            self._specs,
            self._thin,
            Policy(settings.generation_records, settings.generation_bytes, settings.generation_every_s),
            concurrency=settings.generation_concurrency,
        )
        await closing.enter_async_context(self.generations)
        closing.push_async_callback(self._end)
        return self

    async def sweep(self, followers: Followers, closing: AsyncExitStack) -> None:
        """Begin to remove what need not be kept, but for what `followers` need; `closing` ends it."""
        settings = self._settings
        threads = Threads(1, "prune")
        closing.push_async_callback(asyncio.to_thread, threads.close)
        sweeper = Sweeper(
            self._archive,
            self._folder / "sweep.db",
            self._gate,
            every_s=settings.generation_sweep_s,
            grace_s=settings.generation_grace_s,
            prune=self.pruner(threads, followers).look,
        )
        await closing.enter_async_context(sweeper)

    async def _thin(self, name: str) -> None:
        settings = self._settings
        async with self._gate.shared():  # what a history is to begin with stays while it is pruned
            await thin(
                self._archive,
                name,
                keep=settings.generation_keep,
                keep_days=settings.generation_keep_days,
                now=now(),
                history_days=settings.archive_keep_days,
            )

    def pruner(self, threads: Threads, followers: Followers) -> Pruner:
        """Return what removes the history that need not be kept."""
        prover = Prover(self._archive, threads, self._folder / PROOFS)

        async def prove(partition: PartitionId, spec: ProjectionSpec, found: Manifest) -> None:
            await prover.prove(self._domains[partition.domain], partition, spec, found)

        days = self._settings.archive_keep_days
        return Pruner(self._archive, self._gate, self._history, prove, followers, days=days)

    def _history(self, projection: str) -> History | None:
        with suppress(InvalidId):
            if found := projection_named(self._settings, projection):
                domain, partition, spec = found
                specs = domain.projections(partition.key)
                return (partition, specs) if spec.name == specs[0].name else None
        return None  # somebody else's folder

    async def _end(self) -> None:
        tasks = list(self._asked.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _specs(self, partition: PartitionId) -> Sequence[ProjectionSpec]:
        domain = self._domains.get(partition.domain)
        return domain.projections(partition.key) if domain else ()

    async def describe(self, partition: PartitionId, looks: Looks) -> list[GenerationReply]:
        """Return the current generation of each projection of a partition."""
        return [await self._describe(spec.name, looks) for spec in self._specs(partition)]

    async def _describe(self, projection: str, looks: Looks) -> GenerationReply:
        async with self._looking:
            try:
                pointer = await looks.look(lambda: current(self._archive, projection))
            except (GenerationError, StoreError) as error:
                return GenerationReply(projection=projection, problem=str(error))
        if pointer is None:
            return GenerationReply(projection=projection)
        return GenerationReply(
            projection=projection,
            position=pointer.position,
            verified=pointer.verified_position,
            size_bytes=pointer.size_bytes,
            made_at=pointer.moved_at,
        )

    def problem(self, partition: str) -> str | None:
        """Return why the next generation of a partition is late, None if it is not."""
        return self.generations.troubles.get(partition)

    async def make(self, projections: Sequence[str]) -> list[GenerationMade]:
        """Make generations now, and return what became of those that are done in time.

        Raise `Refusal`: 404 for what is no projection here, 503 if too many were asked for.
        """
        tasks = [self._ask(name) for name in projections]
        await asyncio.wait(tasks, timeout=ANSWER_S)
        return [
            task.result() if task.done() else GenerationMade(projection=name, result="making")
            for name, task in zip(projections, tasks, strict=True)
        ]

    def _ask(self, name: str) -> "asyncio.Task[GenerationMade]":
        if task := self._asked.get(name):
            return task
        _, partition, spec = self._named(name)
        if len(self._asked) >= ASKED_MAX:
            raise Refusal(UNAVAILABLE.problem(f"{ASKED_MAX} generations were asked for and are not done"))
        task = self._asked[name] = asyncio.create_task(self._make(partition, spec), name=f"generation {name}")
        task.add_done_callback(lambda _: self._asked.pop(name, None))
        return task

    def _named(self, name: str) -> tuple[Domain, PartitionId, ProjectionSpec]:
        found = None
        with suppress(InvalidId):
            found = projection_named(self._settings, name)
        if found is None:
            what = f"there is no projection {name[:140]}: they are called control, doc/NAME and so on"
            raise Refusal(NOT_FOUND.problem(what))
        return found

    async def _make(self, partition: PartitionId, spec: ProjectionSpec) -> GenerationMade:
        try:
            made = await self.generations.make_now(partition, spec, prove=True)
        except FAILURES as error:
            reason = str(error) or type(error).__name__
            return GenerationMade(projection=spec.name, result="failed", problem=reason)
        found = made.generation
        if found is None:
            return GenerationMade(projection=spec.name, result=made.result.value)
        return GenerationMade(
            projection=spec.name,
            result=made.result.value,
            position=found.position,
            size_bytes=found.size_bytes,
            stored_bytes=made.stored_bytes if made.result is Result.MADE else None,
            verified=made.verified,
        )
