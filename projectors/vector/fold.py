"""The two folds of the vector log: jobs, and embeddings."""

from typing import assert_never, cast

import apsw

from events.envelope import Event
from schemas.vector import (
    EmbeddingStored,
    JobFailed,
    JobsClaimed,
    JobsReleased,
    JobsRequeued,
    UploadAccepted,
    VectorFact,
)

FOLD_VERSION = 1  # raise it when the same events give other rows


def apply_to_queue(db: apsw.Connection, event: Event) -> None:
    """Fold one event into `vector/queue.db`."""
    match cast(VectorFact, event.fact):
        case UploadAccepted() as accepted:
            _accept(db, accepted, event.time)
        case JobsClaimed() as claimed:
            for job_id in claimed.job_ids:
                _move(db, job_id, "processing", event.time)
                db.execute(
                    "UPDATE job SET worker_id = ?, lease_until = ? WHERE id = ?",
                    (claimed.worker_id, claimed.lease_until, job_id),
                )
        case JobsReleased() as released:
            for job_id in released.job_ids:
                _move(db, job_id, "pending", event.time)
                db.execute(
                    "UPDATE job SET worker_id = NULL, lease_until = NULL, last_error = ?, next_attempt_at = ? "
                    "WHERE id = ?",
                    (released.reason, released.next_attempt_at, job_id),
                )
        case JobFailed() as failed:
            _move(db, failed.job_id, "pending" if failed.next_attempt_at else "error", event.time)
            db.execute(
                "UPDATE job SET worker_id = NULL, lease_until = NULL, last_error = ?, attempts = ?, "
                "next_attempt_at = coalesce(?, next_attempt_at) WHERE id = ?",
                (failed.reason, failed.attempts, failed.next_attempt_at, failed.job_id),
            )
        case JobsRequeued() as requeued:
            for job_id in requeued.job_ids:
                _move(db, job_id, "pending", event.time)
                db.execute(
                    "UPDATE job SET attempts = 0, last_error = NULL, next_attempt_at = ? WHERE id = ?",
                    (event.time, job_id),
                )
        case EmbeddingStored() as stored:
            _finish(db, stored, event.time)
        case unreachable:
            assert_never(unreachable)


def apply_to_embeddings(db: apsw.Connection, event: Event) -> None:
    """Fold one event into `vector/embeddings.db`."""
    match cast(VectorFact, event.fact):
        case EmbeddingStored() as stored:
            db.execute(
                "INSERT INTO embedding VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) ON CONFLICT (kind, file_hash) DO UPDATE "
                "SET model = ?3, dimension = ?4, vector = ?5, updated_at = ?6",
                (stored.kind, stored.file_hash, stored.model, stored.dimension, stored.vector, event.time),
            )
        case UploadAccepted() | JobsClaimed() | JobsReleased() | JobFailed() | JobsRequeued():
            pass  # queue.db folds these
        case unreachable:
            assert_never(unreachable)


def _accept(db: apsw.Connection, accepted: UploadAccepted, time: str) -> None:
    db.execute(
        "INSERT OR IGNORE INTO job (id, file_hash, kind, status, payload, size_bytes, next_attempt_at, created_at, "
        "updated_at) VALUES (?1, ?2, ?3, 'pending', ?4, ?5, ?6, ?6, ?6)",
        (accepted.job_id, accepted.file_hash, accepted.kind, accepted.payload, accepted.size_bytes, time),
    )
    if db.changes():
        db.execute("UPDATE job_count SET jobs = jobs + 1 WHERE status = 'pending'")
        return
    _move(db, accepted.job_id, "pending", time)
    db.execute(
        "UPDATE job SET payload = ?, size_bytes = ?, attempts = 0, worker_id = NULL, last_error = NULL, "
        "next_attempt_at = ?, lease_until = NULL WHERE id = ?",
        (accepted.payload, accepted.size_bytes, time, accepted.job_id),
    )


def _finish(db: apsw.Connection, stored: EmbeddingStored, time: str) -> None:
    _move(db, stored.job_id, "done", time)
    db.execute("UPDATE job SET worker_id = NULL, lease_until = NULL, last_error = NULL WHERE id = ?", (stored.job_id,))
    db.execute(
        "INSERT INTO model VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (stored.kind, stored.model, stored.dimension)
    )


def _move(db: apsw.Connection, job_id: int, status: str, time: str) -> None:
    """Change a job's status and keep the counts true."""
    db.execute(
        "UPDATE job_count SET jobs = jobs + (status = ?1) - (status = (SELECT status FROM job WHERE id = ?2)) "
        "WHERE status IN (?1, (SELECT status FROM job WHERE id = ?2))",
        (status, job_id),
    )
    db.execute("UPDATE job SET status = ?, updated_at = ? WHERE id = ?", (status, time, job_id))
