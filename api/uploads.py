"""Uploads: take a file's bytes, keep them durably, and have their embedding asked for."""

import asyncio
from dataclasses import dataclass, field

from api.parameters import parse_hash, parse_kind
from api.positions import POSITION_HEADER, command_id
from api.problems import body_too_large
from api.routes import Reply, Request
from events.objects.errors import StoreError
from events.payload_archive import PayloadArchive
from events.payload_errors import PayloadStoreError, PayloadStoreFull, PayloadTooLarge
from events.payloads import PayloadStore
from projectors.partitions import Partitions
from projectors.readers import Readers
from projectors.vector import queries
from projectors.vector.commands import too_many_pending
from projectors.vector.domain import PARTITION
from schemas.problems import DISK_FULL, INVALID_BODY, INVALID_PARAMETER, UNAVAILABLE, Problem, Refusal
from schemas.vector import AcceptUpload

PENDING_AGE_S = 0.1
REMOTE_BYTES_PER_S = 4 << 20  # what an upload expects of the object store, beside the time for an answer


@dataclass(slots=True)
class _PendingJobs:
    """How many jobs were pending at a moment of the event loop's clock."""

    jobs: int = 0
    at: float = -PENDING_AGE_S


@dataclass(frozen=True, slots=True)
class Uploads:
    """The upload handler, with what it needs."""

    partitions: Partitions
    queue: Readers
    embeddings: Readers
    payloads: PayloadStore
    pending_max: int
    ack_timeout_s: float
    bytes_max: int
    remote: PayloadArchive | None = None
    """Where bytes are stored too before an upload is answered."""
    _pending: _PendingJobs = field(default_factory=_PendingJobs, repr=False)

    async def upload(self, request: Request[None]) -> Reply:
        """Take a file: check, stage while hashing, keep durably, have its job recorded."""
        file_hash = _file_hash(request)
        kind = parse_kind(request.headers.get("x-embedding-kind", ""), "X-Embedding-Kind")
        remembered_as = command_id(request)
        await self._check_pending()
        try:
            present, size_bytes = await self._keep(request, file_hash, kind)
        except PayloadTooLarge as error:
            raise Refusal(body_too_large(self.bytes_max)) from error
        except PayloadStoreError as error:
            raise Refusal(_disk_problem(error)) from error
        if present and remembered_as is None:  # else the first answer under that key is asked for
            position = self.partitions[PARTITION].position
            return Reply(200, {"status": "already_present"}, {POSITION_HEADER: str(position)} if position else {})
        answer = await self.partitions.submit(
            PARTITION,
            AcceptUpload(kind=kind, file_hash=file_hash, size_bytes=size_bytes),
            principal=request.caller.name,
            command_id=remembered_as,
            timeout_s=self.ack_timeout_s,
        )
        status = 202 if answer.value["status"] == "accepted" else 200
        return Reply(status, answer.value, {POSITION_HEADER: str(answer.position)})

    async def _keep(self, request: Request[None], file_hash: str, kind: str) -> tuple[bool, int]:
        """Take the body and make it durable; return whether its embedding is known already, and its size."""
        staged = await self.payloads.stage(request.stream(), bytes_max=self.bytes_max)
        try:
            if staged.cid != file_hash:
                why = f"hash mismatch: X-File-Hash is {file_hash}, the body has {staged.cid}"
                raise Refusal(INVALID_PARAMETER.problem(why, field="X-File-Hash"))
            if not staged.size_bytes:
                raise Refusal(INVALID_BODY.problem("empty body: there is nothing to embed"))
            if await self.embeddings.read(lambda db: queries.present(db, kind, [file_hash])):
                await self.payloads.discard(staged)
                return True, staged.size_bytes
        except BaseException:
            await self.payloads.discard(staged)
            raise
        await self.payloads.keep(staged)
        if self.remote is not None:
            await _store(self.remote, staged.cid, self.ack_timeout_s + staged.size_bytes / REMOTE_BYTES_PER_S)
        return False, staged.size_bytes

    async def _check_pending(self) -> None:
        """Refuse before the body is read. The count may be a moment old: the decision checks it exactly."""
        now = asyncio.get_running_loop().time()
        if now - self._pending.at > PENDING_AGE_S:
            self._pending.at = now
            self._pending.jobs = (await self.queue.read(queries.job_counts))["pending"]
        if self._pending.jobs > self.pending_max:
            raise Refusal(too_many_pending(self._pending.jobs, self.pending_max))


async def _store(remote: PayloadArchive, cid: str, wait_s: float) -> None:
    try:
        async with asyncio.timeout(wait_s):
            await remote.store(cid)
    except (StoreError, OSError) as error:  # a timeout is one of the latter
        why = str(error) or f"no answer within {wait_s:.0f} s"
        problem = UNAVAILABLE.problem(f"the object store has not taken the bytes: {why}", retry_after_s=5)
        raise Refusal(problem) from error


def _disk_problem(error: PayloadStoreError) -> Problem:
    kind = DISK_FULL if isinstance(error, PayloadStoreFull) else UNAVAILABLE
    return kind.problem(str(error), retry_after_s=5)


def _file_hash(request: Request[None]) -> str:
    given = request.headers.get("x-file-hash", "").strip()
    if not given:
        raise Refusal(INVALID_PARAMETER.problem("missing X-File-Hash header", field="X-File-Hash"))
    return parse_hash(given, "X-File-Hash")
