"""The HTTP bodies of the vector service."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.vector import DIMENSION_MAX, Kind, Status

SEARCH_HITS_MAX = 1000
LOOKUP_HASHES_MAX = 200_000


class Body(BaseModel):
    """Base of HTTP bodies."""

    model_config = ConfigDict(frozen=True)


class LookupRequest(Body):
    """Which of these files are known? Hashes are compared in lowercase; blank ones are dropped."""

    kind: Kind
    hashes: list[str] = Field(min_length=1, max_length=LOOKUP_HASHES_MAX)


class LookupReply(Body):
    """By hash as it was sent."""

    status: dict[str, Literal["present", "processing", "missing"]]


class UploadReply(Body):
    """`accepted` with the job, or `already_present`."""

    status: Literal["accepted", "already_present"]
    job_id: int | None = None


class SearchRequest(Body):
    """The most similar files to a known file, or to a vector."""

    kind: Kind
    hash: str | None = None
    vector: list[float] | None = Field(None, max_length=DIMENSION_MAX)
    model: str | None = None
    k: int = Field(10, ge=1, le=SEARCH_HITS_MAX)


class Hit(Body):
    """One file and its cosine similarity, 1 at most."""

    hash: str
    score: float


class SearchReply(Body):
    """Best first; `scanned` vectors were compared."""

    kind: str
    model: str
    hits: list[Hit]
    scanned: int


class EmbeddingReply(Body):
    """One stored vector."""

    hash: str
    kind: str
    model: str
    dimension: int
    vector: list[float]
    created_at: str
    updated_at: str


class JobView(Body):
    """One job as the queue shows it."""

    job_id: int
    file_hash: str
    kind: str
    status: Status
    attempts: int
    last_error: str | None
    next_attempt_at: str
    created_at: str
    updated_at: str


class JobsReply(Body):
    """A page of jobs; `next` is the `after` of the following page."""

    jobs: list[JobView]
    next: int | None


class RequeueRequest(Body):
    """Name `hashes`, or say `all`."""

    kind: Kind | None = None
    hashes: list[str] | None = None
    all: bool = False


class RequeueReply(Body):
    """How many jobs wait again."""

    requeued: int
