"""The routes of the vector service. Paths, headers, statuses and the order of checks are a published contract."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy

from api.inputs import KEY, MIN_POSITION, choice, header, number
from api.parameters import parse_hash, parse_kind, query_number
from api.positions import POSITION_HEADER, await_position, command_id
from api.routes import Reply, Request, Route
from api.uploads import Uploads
from projectors.partitions import Partitions
from projectors.readers import Readers
from projectors.vector import queries
from projectors.vector.domain import PARTITION
from projectors.vector.search import WrongDimension, search
from schemas.problems import INVALID_BODY, INVALID_PARAMETER, NOT_FOUND, Refusal
from schemas.vector import KINDS, RequeueJobs
from schemas.vector_bodies import (
    EmbeddingReply,
    Hit,
    JobsReply,
    LookupReply,
    LookupRequest,
    RequeueReply,
    RequeueRequest,
    SearchReply,
    SearchRequest,
    UploadReply,
)

LOOKUP_BYTES_MAX = 10 << 20
JOBS_PAGE_MAX = 1000
STATUSES = ("pending", "processing", "awaiting_payload", "done", "error")
JOBS_INPUTS = (
    choice("status", "Which jobs.", STATUSES, "error"),
    choice("kind", "Only of this kind.", KINDS),
    number("after", "Only later ones: `next` of the page before.", 0, 2**63 - 1),
    number("limit", "How many a page has at most.", 1, JOBS_PAGE_MAX, 100),
    MIN_POSITION,
)
UPLOAD_INPUTS = (
    header("X-File-Hash", "BLAKE3-256 of the body, in hex.", required=True, pattern="^[0-9a-fA-F]{64}$"),
    header("X-Embedding-Kind", "What to make of it.", required=True, enum=list(KINDS)),
    KEY,
)
READ, WRITE, ADMIN = "vector.read", "vector.write", "vector.admin"


@dataclass(frozen=True, slots=True)
class VectorApi:
    """The handlers, with what they need."""

    partitions: Partitions
    queue: Readers
    embeddings: Readers
    searches: Readers
    uploads: Uploads
    ack_timeout_s: float
    lookup_chunk: int

    def routes(self) -> Sequence[Route]:
        """Return the route table of the domain."""
        return (
            Route(
                "POST",
                "/api/v1/lookup",
                READ,
                self.lookup,
                body=LookupRequest,
                body_bytes_max=LOOKUP_BYTES_MAX,
                inputs=(MIN_POSITION,),
                replies={200: LookupReply},
                summary="Which of these files are known?",
            ),
            Route(
                "POST",
                "/api/v1/upload",
                WRITE,
                self.uploads.upload,
                streaming=True,
                body_bytes_max=self.uploads.bytes_max,
                inputs=UPLOAD_INPUTS,
                replies={200: UploadReply, 202: UploadReply},
                summary="Hand in a file's bytes; 202 once they and the request are durable",
            ),
            Route(
                "POST",
                "/api/v1/search",
                READ,
                self.search,
                body=SearchRequest,
                body_bytes_max=LOOKUP_BYTES_MAX,
                inputs=(MIN_POSITION,),
                replies={200: SearchReply},
                summary="The most similar files",
            ),
            Route(
                "GET",
                "/api/v1/embeddings/{kind}/{hash}",
                READ,
                self.embedding,
                inputs=(MIN_POSITION,),
                replies={200: EmbeddingReply},
                summary="One stored vector",
            ),
            Route(
                "GET",
                "/api/v1/jobs",
                READ,
                self.jobs,
                inputs=JOBS_INPUTS,
                replies={200: JobsReply},
                summary="Jobs of one status",
            ),
            Route(
                "POST",
                "/api/v1/jobs/requeue",
                ADMIN,
                self.requeue,
                body=RequeueRequest,
                inputs=(KEY,),
                replies={200: RequeueReply},
                summary="Put dead letters back",
            ),
        )

    async def lookup(self, request: Request[LookupRequest]) -> Reply:
        """Say for each hash whether its vector is stored, on its way, or missing."""
        await await_position(request, self.partitions[PARTITION])
        body = request.body
        asked = list(dict.fromkeys(h.strip() for h in body.hashes if h.strip()))
        status: dict[str, Any] = {}
        for chunk in queries.chunks(asked, self.lookup_chunk):
            lowered = [h.lower() for h in chunk]
            # Queue first: a job that finishes between the two reads is then still found, as present.
            processing = await self.queue.read(partial(queries.in_progress, kind=body.kind, hashes=lowered))
            present = await self.embeddings.read(partial(queries.present, kind=body.kind, hashes=lowered))
            for sent, key in zip(chunk, lowered, strict=True):
                status[sent] = "present" if key in present else "processing" if key in processing else "missing"
        return Reply(200, LookupReply(status=status))

    async def search(self, request: Request[SearchRequest]) -> Reply:
        """Compare a known file's vector, or a given one, with all of its kind."""
        await await_position(request, self.partitions[PARTITION])
        body = request.body
        if (body.hash is None) == (body.vector is None):
            raise Refusal(INVALID_BODY.problem("give either hash or vector", field="hash"))
        if body.hash is not None:
            file_hash = parse_hash(body.hash, "hash")
            found = await self.embeddings.read(lambda db: queries.embedding(db, body.kind, file_hash))
            if found is None:
                why = f"there is no {body.kind} embedding of {file_hash}"
                raise Refusal(NOT_FOUND.problem(why, fix="Upload the file, and look it up until it is present."))
            model, query, exclude = found[0], numpy.frombuffer(found[2], "<f4"), file_hash
        else:
            query, exclude = numpy.asarray(body.vector, numpy.float64), None
            model = body.model or await self._newest_model(body.kind, query.size)
        try:
            result = await self.searches.read(
                lambda db: search(db, kind=body.kind, query=query, model=model, k=body.k, exclude=exclude)
            )
        except (WrongDimension, ValueError) as error:
            raise Refusal(INVALID_BODY.problem(str(error), field="vector")) from error
        hits = [Hit(hash=file_hash, score=score) for file_hash, score in result.hits]
        return Reply(200, SearchReply(kind=body.kind, model=model, hits=hits, scanned=result.scanned))

    async def _newest_model(self, kind: str, dimension: int) -> str:
        model = await self.embeddings.read(lambda db: queries.newest_model(db, kind, dimension))
        if model is None:
            why = f"no stored {kind} embedding has {dimension} numbers"
            raise Refusal(INVALID_BODY.problem(why, field="vector"))
        return model

    async def embedding(self, request: Request[None]) -> Reply:
        """Return one vector as JSON."""
        await await_position(request, self.partitions[PARTITION])
        kind, file_hash = parse_kind(request.params["kind"], "kind"), parse_hash(request.params["hash"], "hash")
        found = await self.embeddings.read(lambda db: queries.embedding(db, kind, file_hash))
        if found is None:
            raise Refusal(NOT_FOUND.problem(f"there is no {kind} embedding of {file_hash}"))
        model, dimension, vector, created_at, updated_at = found
        reply = EmbeddingReply(
            hash=file_hash,
            kind=kind,
            model=model,
            dimension=dimension,
            vector=numpy.frombuffer(vector, "<f4").tolist(),
            created_at=created_at,
            updated_at=updated_at,
        )
        return Reply(200, reply)

    async def jobs(self, request: Request[None]) -> Reply:
        """Return a page of the jobs of one status."""
        await await_position(request, self.partitions[PARTITION])
        status = request.query.get("status", "error")
        if status not in STATUSES:
            raise Refusal(INVALID_PARAMETER.problem(f"status is one of {', '.join(STATUSES)}", field="status"))
        kind = parse_kind(request.query["kind"], "kind") if request.query.get("kind") else None
        after = query_number(request, "after", 0, 0, 2**63 - 1)
        limit = query_number(request, "limit", 100, 1, JOBS_PAGE_MAX)
        found = await self.queue.read(lambda db: queries.jobs(db, status, kind, after, limit))
        return Reply(200, JobsReply(jobs=found, next=found[-1].job_id if len(found) == limit else None))

    async def requeue(self, request: Request[RequeueRequest]) -> Reply:
        """Put dead letters back into the queue."""
        body = request.body
        if body.all == (body.hashes is not None):
            raise Refusal(INVALID_BODY.problem("name hashes, or say all: true", field="hashes"))
        hashes = None if body.hashes is None else tuple(parse_hash(h, "hashes") for h in body.hashes)
        answer = await self.partitions.submit(
            PARTITION,
            RequeueJobs(kind=body.kind, hashes=hashes),
            principal=request.caller.name,
            command_id=command_id(request),
            timeout_s=self.ack_timeout_s,
        )
        return Reply(200, answer.value, {POSITION_HEADER: str(answer.position)})
