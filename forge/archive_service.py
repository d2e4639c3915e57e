"""The archiver of a node, wired: what it reads, where payloads lie, and what it says of itself."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

from api.replicate import ReplicateApi
from api.routes import Route
from api.system import Check
from events.archive import Archive
from events.errors import LogError
from events.log import Log
from events.objects.errors import StoreError
from events.payloads import payload_path
from forge.domains import domains
from forge.drill_service import DrillService
from forge.generation_service import GenerationService
from schemas.ids import PartitionId
from schemas.problems import CONFLICT, NOT_THE_WRITER, UNAVAILABLE, Refusal
from schemas.replicate import GenerationMade, PartitionReply, ReplicateStatusReply, RetentionReply, StreamReply
from schemas.settings import Settings
from workers.archive.archiver import Archiver, StreamLag
from workers.archive.follower import Bounds
from workers.archive.looks import Looks
from workers.archive.report import PartitionLag, partition_lags, partitions_of
from workers.generations.pruning import Followers


class ArchiveService:
    """The archive as a part of the node. Without one (`archiver` None) it says so, and nothing else."""

    def __init__(
        self,
        settings: Settings,
        event_log: Log,
        archiver: Archiver | None,
        generations: GenerationService | None,
        drills: DrillService | None = None,
        followed: Archive | None = None,
    ) -> None:
        """`followed` is the archive that another node writes, of which this one is a standby."""
        self._ready_lag_s = settings.archive_ready_lag_s
        self._log = event_log
        self._archiver = archiver
        self._generations = generations
        self._drills = drills
        self._archive = archiver.archive if archiver is not None else followed

    @property
    def left_some(self) -> bool:
        """Whether something may not be archived, although archiving has ended."""
        return self._archiver is not None and self._archiver.left_some

    def routes(self, retention: Callable[[], RetentionReply | None] = lambda: None) -> Sequence[Route]:
        """Return the route table; `retention` says what is kept of the log."""

        async def status(after: str, limit: int) -> ReplicateStatusReply:
            return (await self.status(after, limit)).model_copy(update={"retention": retention()})

        return ReplicateApi(status, self.make_generations).routes()

    async def checks(self) -> list[Check]:
        """Return whether the archive follows closely enough; nothing if there is none."""
        if self._archiver is None:
            return []
        try:
            lags = await self._archiver.lag()
        except LogError:
            return []  # the check of the log says it
        stopped = {name: why for lag in lags for name, why in lag.stopped.items()}
        seconds = max(lag.seconds for lag in lags)
        limit = self._ready_lag_s
        return [
            Check(
                "archive",
                not stopped and (seconds <= limit or not limit),
                _said(lags, stopped, seconds),
                f"at most {limit:g} s behind" if limit else "nothing stopped",
                "see that the object store can be reached; `forge replicate status`, docs/runbooks/while-it-runs.md",
                data_at_risk=bool(stopped),
            )
        ]

    async def refresh_metrics(self) -> None:
        """Set the gauges of the archive."""
        if self._archiver is not None:
            await self._archiver.refresh_metrics()

    async def status(self, after: str, limit: int) -> ReplicateStatusReply:
        """Return one page of what is archived; refuse (503) while the log is away."""
        if self._archive is None:
            return ReplicateStatusReply(archive=None, streams=[], partitions=[], next=None)
        reader, looks = self._log.reader, Looks()
        try:
            lags = await self._archiver.lag() if self._archiver is not None else []
            page = [p for p in await partitions_of(reader) if p.subject > after][: limit + 1]
            known = self._archiver.known if self._archiver is not None else lambda _: None
            following = self._archiver is None
            found = await partition_lags(self._archive, reader, page[:limit], looks, known, follows=following)
        except LogError as error:
            raise Refusal(UNAVAILABLE.problem(f"the log is away: {error}")) from error
        stopped = {name: why for lag in lags for name, why in lag.stopped.items()}
        each = (self._with_generations(one, lag, looks) for one, lag in zip(page[:limit], found, strict=True))
        described = await self._with_drills(await asyncio.gather(*each), looks)
        return ReplicateStatusReply(
            archive=self._archive.name,
            streams=[
                StreamReply(
                    stream=lag.stream,
                    lag_records=lag.records,
                    lag_bytes=lag.size_bytes,
                    lag_s=round(lag.seconds, 3),
                    trouble=lag.trouble,
                )
                for lag in lags
            ],
            partitions=[
                one.model_copy(update={"problem": stopped.get(one.partition, one.problem)}) for one in described
            ],
            next=page[limit - 1].subject if len(page) > limit else None,
        )

    async def _with_generations(self, partition: PartitionId, lag: PartitionLag, looks: Looks) -> PartitionReply:
        reply = PartitionReply.model_validate(lag)
        if self._generations is None:
            return reply
        described = await self._generations.describe(partition, looks)
        late = self._generations.problem(str(partition))
        return reply.model_copy(update={"generations": described, "generation_problem": late})

    async def _with_drills(self, partitions: Sequence[PartitionReply], looks: Looks) -> Sequence[PartitionReply]:
        if self._drills is None or looks.away:
            return partitions
        names = [generation.projection for one in partitions for generation in one.generations]
        try:
            found = await self._drills.last_of(names)
        except StoreError:
            return partitions  # that it is away is told of each partition
        return [
            one.model_copy(
                update={"drills": [found[each.projection] for each in one.generations if each.projection in found]}
            )
            for one in partitions
        ]

    async def sweep(self, followers: Followers, closing: AsyncExitStack) -> None:
        """Begin to remove what the archive need not keep, but for what `followers` need; `closing` ends it."""
        if self._generations is not None:
            await self._generations.sweep(followers, closing)

    async def make_generations(self, projections: Sequence[str]) -> list[GenerationMade]:
        """Make generations of projections now; refuse without an archive."""
        if self._archive is not None and self._archiver is None:
            raise Refusal(NOT_THE_WRITER.problem("this node is a standby: the writer makes generations"))
        if self._generations is None:
            raise Refusal(CONFLICT.problem("this node has no archive: set FORGE_S3_BUCKET, or start it with --s3"))
        return await self._generations.make(projections)


async def open_archive_service(
    settings: Settings,
    event_log: Log,
    archive: Archive | None,
    closing: AsyncExitStack,
    *,
    epoch: int = 1,
    writes: bool = True,
) -> ArchiveService:
    """Start archiving if there is an archive; `closing` ends it, with what can still be archived in a moment.

    Unless it `writes`, the archive is another node's, and it only tells about it.
    """
    if not writes:
        return ArchiveService(settings, event_log, None, None, followed=archive)
    archiver = generations = drills = None
    if archive is not None:
        generations = await GenerationService(archive, settings).open(settings, epoch, closing)
        archiver = archiver_of(
            settings,
            event_log,
            archive,
            seal_s=settings.archive_seal_s,
            archived=generations.generations.archived,
        )
        await closing.enter_async_context(archiver)
        drills = await closing.enter_async_context(DrillService(archive, settings))
    return ArchiveService(settings, event_log, archiver, generations, drills)


def archiver_of(
    settings: Settings,
    event_log: Log,
    archive: Archive,
    *,
    seal_s: float,
    archived: Callable[..., None] = lambda *_: None,
) -> Archiver:
    """Return an archiver with the bounds of the settings, not started yet."""
    return Archiver(
        archive,
        event_log,
        {name: domain.facts for name, domain in domains(settings).items()},
        partial(payload_path, settings.blob_cache),
        Bounds(seal_s, settings.archive_seal_bytes, settings.archive_memory_bytes),
        node=settings.node_id,
        concurrency=settings.archive_concurrency,
        archived=archived,
    )


def _said(lags: Sequence[StreamLag], stopped: dict[str, str], seconds: float) -> str:
    for name, why in stopped.items():
        return f"{len(stopped)} partitions are not archived any more, such as {name}: {why}"
    behind = f"{seconds:.1f} s and {sum(lag.records for lag in lags)} records behind"
    trouble = next((lag.trouble for lag in lags if lag.trouble), "")
    return f"{behind}: {trouble}" if trouble else behind
