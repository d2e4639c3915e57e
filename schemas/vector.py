"""The vector domain: its facts and its commands."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveInt, field_validator

from schemas.facts import Binary, Command, Fact, Instant, facts_by_type
from schemas.ids import Cid

DEFAULT_SHARD = "0"
MODEL_LENGTH_MAX = 200
REASON_LENGTH_MAX = 1000
DIMENSION_MAX = 65_536
Status = Literal["pending", "processing", "awaiting_payload", "done", "error"]


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


StoredKind = Literal["image", "text"]
Kind = Annotated[StoredKind, BeforeValidator(_lower)]  # as people write it
KINDS: tuple[Kind, ...] = ("image", "text")
Reason = Annotated[str, Field(max_length=REASON_LENGTH_MAX)]
ModelId = Annotated[str, Field(min_length=1, max_length=MODEL_LENGTH_MAX)]


class UploadAccepted(Fact):
    """A file's bytes are kept and its embedding was asked for: its job is pending, with no failed attempts."""

    TYPE: ClassVar[str] = "forge.vector.upload.accepted"
    job_id: PositiveInt
    kind: StoredKind
    file_hash: Cid
    payload: Cid
    size_bytes: PositiveInt

    @property
    def subject(self) -> str:
        """The file."""
        return self.file_hash

    @property
    def payloads(self) -> tuple[str, ...]:
        """The file's bytes."""
        return (self.payload,)


class JobsClaimed(Fact):
    """A worker took these jobs; they are its own until `lease_until`."""

    TYPE: ClassVar[str] = "forge.vector.jobs.claimed"
    job_ids: tuple[PositiveInt, ...]
    worker_id: str
    lease_until: Instant

    @property
    def subject(self) -> str:
        """The worker."""
        return self.worker_id


class JobsReleased(Fact):
    """These jobs wait again, through no fault of theirs: no attempt is charged."""

    TYPE: ClassVar[str] = "forge.vector.jobs.released"
    job_ids: tuple[PositiveInt, ...]
    reason: Reason
    next_attempt_at: Instant

    @property
    def subject(self) -> str:
        """The first job."""
        return str(self.job_ids[0]) if self.job_ids else ""


class JobsParked(Fact):
    """The bytes of these jobs are not to be had: they wait until the files come again. No attempt is charged."""

    TYPE: ClassVar[str] = "forge.vector.jobs.parked"
    job_ids: tuple[PositiveInt, ...]
    reason: Reason

    @property
    def subject(self) -> str:
        """The first job."""
        return str(self.job_ids[0]) if self.job_ids else ""


class JobFailed(Fact):
    """An attempt failed. The job waits for the next one, or is a dead letter when `next_attempt_at` is null."""

    TYPE: ClassVar[str] = "forge.vector.job.failed"
    job_id: PositiveInt
    attempts: PositiveInt
    reason: Reason
    next_attempt_at: Instant | None

    @property
    def subject(self) -> str:
        """The job."""
        return str(self.job_id)


class JobsRequeued(Fact):
    """Dead letters, or jobs whose bytes were missing, wait again, with no failed attempts."""

    TYPE: ClassVar[str] = "forge.vector.jobs.requeued"
    job_ids: tuple[PositiveInt, ...]

    @property
    def subject(self) -> str:
        """The first job."""
        return str(self.job_ids[0]) if self.job_ids else ""


class EmbeddingStored(Fact):
    """A file's vector is known, and its job is done. `vector` is little-endian float32."""

    TYPE: ClassVar[str] = "forge.vector.embedding.stored"
    job_id: PositiveInt
    kind: StoredKind
    file_hash: Cid
    model: ModelId
    dimension: PositiveInt
    vector: Binary

    @property
    def subject(self) -> str:
        """The file."""
        return self.file_hash


VectorFact = UploadAccepted | JobsClaimed | JobsReleased | JobsParked | JobFailed | JobsRequeued | EmbeddingStored
FACTS = facts_by_type(UploadAccepted, JobsClaimed, JobsReleased, JobsParked, JobFailed, JobsRequeued, EmbeddingStored)


class AcceptUpload(Command):
    """Ask for the embedding of a file whose bytes are kept as payload `file_hash`."""

    QUICK: ClassVar[bool] = True
    kind: Kind
    file_hash: Cid
    size_bytes: PositiveInt


class ClaimJobs(Command):
    """Take up to `limit` jobs of `kinds` that are due, oldest first."""

    worker_id: str
    kinds: tuple[Kind, ...]
    limit: PositiveInt
    lease_s: float


class ReleaseJobs(Command):
    """Put jobs back that `worker_id` holds, due again after `delay_s`; no attempt is charged."""

    worker_id: str
    job_ids: tuple[PositiveInt, ...]
    reason: str
    delay_s: float = 0


class ParkJobs(Command):
    """Set jobs aside that `worker_id` holds, because their bytes are not to be had; no attempt is charged."""

    worker_id: str
    job_ids: tuple[PositiveInt, ...]
    reason: str


class RecoverJobs(Command):
    """Put back every job that some other worker than `worker_id` holds: nobody else works here any more."""

    worker_id: str


class CompleteJob(Command):
    """Store the vector of a job's file."""

    QUICK: ClassVar[bool] = True
    job_id: PositiveInt
    worker_id: str
    model: ModelId
    vector: Binary

    @field_validator("vector")
    @classmethod
    def _of_whole_numbers(cls, vector: bytes) -> bytes:
        if not vector or len(vector) % 4 or len(vector) > 4 * DIMENSION_MAX:
            raise ValueError(f"{len(vector)} bytes are not 1 to {DIMENSION_MAX} float32 numbers")
        return vector


class FailJob(Command):
    """Charge an attempt; the job is due again after `delay_s` unless it was the last."""

    QUICK: ClassVar[bool] = True
    job_id: PositiveInt
    worker_id: str
    reason: str
    delay_s: float


class RequeueJobs(Command):
    """Put dead letters and jobs whose bytes were missing back: those named, or all (of one kind)."""

    kind: Kind | None = None
    hashes: tuple[Cid, ...] | None = None


COMMANDS: dict[str, type[Command]] = {
    c.__name__: c
    for c in (AcceptUpload, ClaimJobs, ReleaseJobs, ParkJobs, RecoverJobs, CompleteJob, FailJob, RequeueJobs)
}
