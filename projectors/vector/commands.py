"""How commands of the vector domain are decided against `vector/queue.db`."""

from dataclasses import dataclass
from typing import Any, cast

import apsw

from projectors.domain import Decision
from schemas.facts import Command
from schemas.instants import later
from schemas.problems import TOO_MANY_REQUESTS, Refusal
from schemas.vector import (
    REASON_LENGTH_MAX,
    AcceptUpload,
    ClaimJobs,
    CompleteJob,
    EmbeddingStored,
    FailJob,
    JobFailed,
    JobsClaimed,
    JobsParked,
    JobsReleased,
    JobsRequeued,
    ParkJobs,
    RecoverJobs,
    ReleaseJobs,
    RequeueJobs,
    UploadAccepted,
)

JOBS_PER_FACT_MAX = 1000
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Decider:
    """The rules, with the node's bounds. Calling it decides."""

    pending_max: int
    attempts_max: int

    def __call__(self, db: apsw.Connection, command: Command, now: str) -> Decision:
        """Decide one command; raise `Refusal`."""
        match command:
            case AcceptUpload():
                return self._accept(db, command)
            case ClaimJobs():
                return _claim(db, command, now)
            case ReleaseJobs():
                return _release(db, command, now)
            case ParkJobs():
                return _park(db, command)
            case RecoverJobs():
                return _recover(db, command, now)
            case CompleteJob():
                return self._complete(db, command, now)
            case FailJob():
                return self._fail(db, command, now)
            case RequeueJobs():
                return _requeue(db, command)
        raise TypeError(f"the vector domain has no command {type(command).__name__}")

    def _accept(self, db: apsw.Connection, command: AcceptUpload) -> Decision:
        known = db.execute(
            "SELECT id, status FROM job WHERE file_hash = ? AND kind = ?", (command.file_hash, command.kind)
        ).fetchone()
        match known:
            case (_, "done"):
                return Decision(answer={"status": "already_present"})
            case (job_id, "pending" | "processing"):
                return Decision(answer={"status": "accepted", "job_id": job_id})
        pending, newest = db.execute(
            "SELECT jobs, (SELECT max(id) FROM job) FROM job_count WHERE status = 'pending'"
        ).get
        if pending > self.pending_max:
            raise Refusal(too_many_pending(pending, self.pending_max))
        job_id = known[0] if known else (newest or 0) + 1
        accepted = UploadAccepted(
            job_id=job_id,
            kind=command.kind,
            file_hash=command.file_hash,
            payload=command.file_hash,
            size_bytes=command.size_bytes,
        )
        return Decision([accepted], {"status": "accepted", "job_id": job_id})

    def _complete(self, db: apsw.Connection, command: CompleteJob, now: str) -> Decision:
        row = db.execute("SELECT file_hash, kind, status FROM job WHERE id = ?", (command.job_id,)).fetchone()
        if row is None or row[2] == "done":
            return Decision(answer={"stored": False})
        file_hash, kind, _ = row
        dimension = len(command.vector) // FLOAT_BYTES
        known = db.execute("SELECT dimension FROM model WHERE kind = ? AND model = ?", (kind, command.model)).fetchone()
        if known and known[0] != dimension:
            reason = f"model {command.model} has {known[0]} dimensions for kind {kind}, this answer has {dimension}"
            failed = FailJob(job_id=command.job_id, worker_id=command.worker_id, reason=reason, delay_s=60)
            return Decision(self._fail(db, failed, now).facts, {"stored": False, "reason": reason})
        stored = EmbeddingStored(
            job_id=command.job_id,
            kind=kind,
            file_hash=file_hash,
            model=command.model,
            dimension=dimension,
            vector=command.vector,
        )
        return Decision([stored], {"stored": True})

    def _fail(self, db: apsw.Connection, command: FailJob, now: str) -> Decision:
        row = db.execute(
            "SELECT attempts FROM job WHERE id = ? AND status = 'processing' AND worker_id = ?",
            (command.job_id, command.worker_id),
        ).fetchone()
        if row is None:
            return Decision(answer={"dead": False})  # somebody else's by now
        attempts = row[0] + 1
        dead = attempts >= self.attempts_max
        failed = JobFailed(
            job_id=command.job_id,
            attempts=attempts,
            reason=command.reason[:REASON_LENGTH_MAX],
            next_attempt_at=None if dead else later(now, command.delay_s),
        )
        return Decision([failed], {"dead": dead})


def too_many_pending(pending: int, pending_max: int) -> Any:
    """Return the problem of a full queue."""
    return TOO_MANY_REQUESTS.problem(f"{pending} jobs are pending, more than {pending_max}", retry_after_s=5)


def _claim(db: apsw.Connection, command: ClaimJobs, now: str) -> Decision:
    facts: list[JobsReleased | JobsClaimed] = []
    expired = _column(
        db,
        "SELECT id FROM job WHERE status = 'processing' AND lease_until <= ? ORDER BY lease_until LIMIT ?",
        (now, JOBS_PER_FACT_MAX),
    )
    if expired:
        facts.append(JobsReleased(job_ids=expired, reason="the claim's lease time ran out", next_attempt_at=now))
    marks = ",".join("?" * len(command.kinds))
    # Without INDEXED BY the planner may prefer the primary key and walk every job that was ever done.
    rows = db.execute(
        "SELECT id, file_hash, kind, payload, size_bytes, attempts FROM job INDEXED BY job_pending "
        f"WHERE status = 'pending' AND next_attempt_at <= ? AND kind IN ({marks}) ORDER BY id LIMIT ?",
        (now, *command.kinds, min(command.limit, JOBS_PER_FACT_MAX)),
    ).fetchall()
    if rows:
        lease_until = later(now, command.lease_s)
        claimed = JobsClaimed(
            job_ids=tuple(row[0] for row in rows), worker_id=command.worker_id, lease_until=lease_until
        )
        facts.append(claimed)
    names = ("job_id", "file_hash", "kind", "payload", "size_bytes", "attempts")
    return Decision(facts, {"jobs": [dict(zip(names, row, strict=True)) for row in rows]})


def _release(db: apsw.Connection, command: ReleaseJobs, now: str) -> Decision:
    return _released(_held(db, command), command.reason, later(now, command.delay_s))


def _park(db: apsw.Connection, command: ParkJobs) -> Decision:
    mine = _held(db, command)
    facts = [JobsParked(job_ids=part, reason=command.reason[:REASON_LENGTH_MAX]) for part in _parts(mine)]
    return Decision(facts, {"parked": len(mine)})


def _held(db: apsw.Connection, command: ReleaseJobs | ParkJobs) -> tuple[int, ...]:
    held = _column(db, "SELECT id FROM job WHERE status = 'processing' AND worker_id = ?", (command.worker_id,))
    return tuple(sorted(set(command.job_ids).intersection(held)))


def _recover(db: apsw.Connection, command: RecoverJobs, now: str) -> Decision:
    held = _column(
        db, "SELECT id FROM job WHERE status = 'processing' AND worker_id <> ? ORDER BY id", (command.worker_id,)
    )
    return _released(held, "the worker that held it is gone", now)


def _released(job_ids: tuple[int, ...], reason: str, next_attempt_at: str) -> Decision:
    facts = [
        JobsReleased(job_ids=part, reason=reason[:REASON_LENGTH_MAX], next_attempt_at=next_attempt_at)
        for part in _parts(job_ids)
    ]
    return Decision(facts, {"released": len(job_ids)})


def _requeue(db: apsw.Connection, command: RequeueJobs) -> Decision:
    dead = db.execute(
        "SELECT id, file_hash, kind FROM job WHERE status = 'error' "
        "UNION ALL SELECT id, file_hash, kind FROM job WHERE status = 'awaiting_payload' ORDER BY id"
    ).fetchall()
    wanted = None if command.hashes is None else set(command.hashes)
    job_ids: tuple[int, ...] = tuple(
        cast(int, job_id)
        for job_id, file_hash, kind in dead
        if command.kind in (None, kind) and (wanted is None or file_hash in wanted)
    )
    facts = [JobsRequeued(job_ids=part) for part in _parts(job_ids)]
    return Decision(facts, {"requeued": len(job_ids)})


def _parts(job_ids: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [job_ids[at : at + JOBS_PER_FACT_MAX] for at in range(0, len(job_ids), JOBS_PER_FACT_MAX)]


def _column(db: apsw.Connection, sql: str, arguments: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(row[0] for row in db.execute(sql, arguments))
