"""The embed worker: claims jobs, has embedding workers compute their vectors, and hands the results in."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from prometheus_client import Counter, Histogram

from events.backoff import delay
from events.objects.errors import StoreUnavailable
from events.payload_archive import PayloadArchive
from events.payload_errors import PayloadStoreError
from events.payloads import PayloadStore
from projectors.outcome import Answer, Committed
from projectors.vector.domain import PARTITION
from schemas.facts import Command
from schemas.ids import PartitionId
from schemas.problems import Refusal
from schemas.vector import (
    ClaimJobs,
    CompleteJob,
    EmbeddingStored,
    FailJob,
    JobsClaimed,
    JobsParked,
    Kind,
    ParkJobs,
    RecoverJobs,
    ReleaseJobs,
    RequeueJobs,
)
from workers.breaker import Breaker, Permit, State
from workers.predict import BadAnswer, Failure, Overloaded, PayloadChanged, Predictor, Unreachable
from workers.predict_answer import Prediction

LEASE_MARGIN_S = 60.0  # a claim outlives the longest call by this much
CLAIM_FRACTION = 4  # claims are made when a quarter of the calls is free, not one by one
POLL_S = 1.0  # due retries and expired claims are looked for at least this often
RETRY_BASE_S, RETRY_CAP_S = 1.0, 300.0
ARCHIVE_AWAY_S = 10.0  # until a job whose bytes may be in the archive is tried again
HAND_IN_TRIES = 30
HAND_IN_TIMEOUT_S = 30.0
PRINCIPAL = "worker:embed"

results = Counter("forge_embed_results_total", "Calls of embedding workers by what came of them.", ["kind", "outcome"])
call_seconds = Histogram("forge_embed_call_seconds", "Calls of embedding workers.", ["kind"])

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PayloadUnusable:
    """The disk does not give the bytes, so no worker was asked. Costs an attempt."""

    why: str


@dataclass(frozen=True, slots=True)
class PayloadAbsent:
    """The bytes are neither here nor in the archive, so no worker was asked."""

    why: str


@dataclass(frozen=True, slots=True)
class PayloadAway:
    """The bytes are not here, and nobody can tell now whether the archive has them."""

    why: str


NotAsked = PayloadUnusable | PayloadAbsent | PayloadAway
Outcome = Prediction | Failure | NotAsked


Job = Mapping[str, Any]


class Commands(Protocol):
    """Where commands go: this process's partitions, or those of another one."""

    async def submit(
        self, partition: PartitionId, command: Command, *, principal: str, timeout_s: float | None = None
    ) -> Answer: ...


class EmbedWorker:
    """Runs until cancelled. `concurrency` bounds calls under way, and with them memory and open files."""

    def __init__(
        self,
        commands: Commands,
        payloads: PayloadStore,
        payload_archive: PayloadArchive,
        predictors: Mapping[Kind, Predictor],
        *,
        worker_id: str,
        concurrency: int,
        call_timeout_s: float,
    ) -> None:
        self._commands = commands
        self._payloads = payloads
        self._payload_archive = payload_archive
        self._predictors = predictors
        self._kinds_by_url: dict[str, tuple[Kind, ...]] = {}
        for kind, predictor in predictors.items():
            self._kinds_by_url[predictor.url] = (*self._kinds_by_url.get(predictor.url, ()), kind)
        self._rng = random.Random()
        self._breakers = {url: Breaker(time.monotonic, self._rng) for url in self._kinds_by_url}
        self._worker_id = worker_id
        self._concurrency = concurrency
        self._lease_s = call_timeout_s + LEASE_MARGIN_S
        self._running: dict[asyncio.Task[None], int] = {}
        self._wake = asyncio.Event()
        self._no_claims_because = ""  # said once, not every second

    @property
    def breakers(self) -> Mapping[str, Breaker]:
        """The circuit breaker of each worker URL."""
        return self._breakers

    @property
    def urls(self) -> Mapping[Kind, str]:
        """The worker URL of each kind."""
        return {kind: predictor.url for kind, predictor in self._predictors.items()}

    @property
    def running(self) -> int:
        """How many calls are under way."""
        return len(self._running)

    def heard(self, news: Committed) -> None:
        """Take note of a commit: there may be something to do."""
        if any(not isinstance(fact, JobsClaimed | JobsParked | EmbeddingStored) for fact in news.facts):
            self.wake()

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    async def recover(self) -> None:
        """Take back what earlier workers held; for a node that is the only one to work on its queue."""
        await self._submit(RecoverJobs(worker_id=self._worker_id))

    async def run(self) -> None:
        """Claim and work for ever; on cancellation put back what is not finished."""
        try:
            while True:
                self._wake.clear()
                if (self._concurrency - len(self._running)) * CLAIM_FRACTION >= self._concurrency:
                    for url, kinds in self._kinds_by_url.items():
                        await self._claim(self._breakers[url], kinds)
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()
        finally:
            await self._put_back()

    async def _claim(self, breaker: Breaker, kinds: tuple[Kind, ...]) -> None:
        """Claim jobs for one worker URL and start on them; a worker that was away gets one to begin with."""
        free = self._concurrency - len(self._running)
        limit = free if breaker.state is State.CLOSED else min(free, 1)
        permit = breaker.ask() if limit > 0 else None
        if not isinstance(permit, Permit):
            return
        claim = ClaimJobs(worker_id=self._worker_id, kinds=kinds, limit=limit, lease_s=self._lease_s)
        jobs: Sequence[Job] = ()
        try:
            jobs = (await self._submit(claim)).value["jobs"]
            self._no_claims_because = ""
        except Refusal as refusal:
            if (why := refusal.problem.detail) != self._no_claims_because:
                log.warning("cannot claim jobs", reason=why)
            self._no_claims_because = why
        if not jobs:
            breaker.unused(permit)
        for job in jobs:
            task = asyncio.create_task(self._work(job, breaker, permit), name=f"embed {job['job_id']}")
            self._running[task] = job["job_id"]
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("embedding a file failed unexpectedly", exc_info=error)

    async def _work(self, job: Job, breaker: Breaker, permit: Permit) -> None:
        try:
            outcome = await self._call(job)
        except BaseException:
            breaker.unused(permit)
            raise
        results.labels(job["kind"], type(outcome).__name__).inc()
        if isinstance(outcome, Unreachable):
            breaker.unreachable(permit)
        elif isinstance(outcome, NotAsked):
            breaker.unused(permit)
        else:
            breaker.reached(permit)
        await self._hand_in(self._result(job, outcome))
        if isinstance(outcome, PayloadAbsent) and self._payloads.has(job["payload"]):
            # Uploaded again while it was being processed: the upload found nothing to bring back.
            await self._hand_in(RequeueJobs(kind=job["kind"], hashes=(job["file_hash"],)))

    async def _call(self, job: Job) -> Outcome:
        """Have one payload embedded, if it is here and intact: a damaged one must not become a vector."""
        kind, payload = job["kind"], job["payload"]
        try:
            if not await self._payloads.verify(payload):
                if self._payloads.has(payload):
                    await self._payloads.quarantine(payload)
                if not await self._payload_archive.fetch(payload):
                    return PayloadAbsent(f"payload {payload} is missing or damaged on this node: upload the file again")
            with call_seconds.labels(kind).time():
                return await self._predictors[kind].predict(
                    kind, job["file_hash"], self._payloads.path(payload), job["size_bytes"]
                )
        except StoreUnavailable as error:
            return PayloadAway(f"payload {payload} is not here, and the archive cannot be asked for it: {error}")
        except (OSError, PayloadChanged, PayloadStoreError) as error:
            return PayloadUnusable(f"payload {payload} cannot be read: {error}")

    def _result(self, job: Job, outcome: Outcome) -> Command:
        match outcome:
            case Prediction():
                return CompleteJob(
                    job_id=job["job_id"], worker_id=self._worker_id, model=outcome.model, vector=outcome.vector
                )
            case Unreachable():
                return self._release([job["job_id"]], f"the worker cannot be reached: {outcome.why}", 0)
            case Overloaded():
                return self._release([job["job_id"]], "the worker is overloaded", outcome.retry_after_s or 1)
            case PayloadAbsent():
                return ParkJobs(worker_id=self._worker_id, job_ids=(job["job_id"],), reason=outcome.why)
            case PayloadAway():
                return self._release([job["job_id"]], outcome.why, ARCHIVE_AWAY_S)
            case BadAnswer() | PayloadUnusable():
                return self._failure(job, outcome.why)

    def _failure(self, job: Job, reason: str) -> FailJob:
        wait_s = delay(job["attempts"] + 1, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S, rng=self._rng)
        return FailJob(job_id=job["job_id"], worker_id=self._worker_id, reason=reason, delay_s=wait_s)

    def _release(self, job_ids: Sequence[int], reason: str, delay_s: float) -> ReleaseJobs:
        return ReleaseJobs(worker_id=self._worker_id, job_ids=tuple(job_ids), reason=reason, delay_s=delay_s)

    async def _hand_in(self, result: Command) -> None:
        """Repeat until it is decided; giving up costs nothing but time, the claim runs out."""
        for attempt in range(1, HAND_IN_TRIES + 1):
            try:
                await self._submit(result)
                return
            except Refusal as refusal:
                log.warning("cannot hand in a result", reason=refusal.problem.detail)
                await asyncio.sleep(delay(attempt, base_s=0.2, cap_s=5, rng=self._rng))

    async def _put_back(self) -> None:
        """Cancel what is under way and release it, as far as that goes at once."""
        job_ids = sorted(self._running.values())
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if job_ids:
            with suppress(Refusal, TimeoutError):
                async with asyncio.timeout(1):
                    await self._submit(self._release(job_ids, "the worker stopped", 0))

    async def _submit(self, command: Command) -> Answer:
        return await self._commands.submit(PARTITION, command, principal=PRINCIPAL, timeout_s=HAND_IN_TIMEOUT_S)


def predictors_by_kind(urls: Mapping[Kind, str], make: Callable[[str], Predictor]) -> dict[Kind, Predictor]:
    """Return a predictor per kind; kinds that share a URL share it."""
    by_url = {url: make(url) for url in set(urls.values())}
    return {kind: by_url[url] for kind, url in urls.items()}
