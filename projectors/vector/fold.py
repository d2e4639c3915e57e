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
    time = event.time
    match cast(VectorFact, event.fact):
        case UploadAccepted() as accepted:
            _accept(db, accepted, time)
        case EmbeddingStored() as stored:
            _finish(db, stored, time)
        case JobsClaimed() as claimed:
            db.executemany(
                "UPDATE job SET status = 'processing', updated_at = ?, worker_id = ?, lease_until = ? WHERE id = ?",
                [(time, claimed.worker_id, claimed.lease_until, job_id) for job_id in claimed.job_ids],
            )
            _count(db, "pending", "processing", len(claimed.job_ids))
        case JobsReleased() as released:
            db.executemany(
                "UPDATE job SET status = 'pending', updated_at = ?, worker_id = NULL, lease_until = NULL, "
                "last_error = ?, next_attempt_at = ? WHERE id = ?",
                [(time, released.reason, released.next_attempt_at, job_id) for job_id in released.job_ids],
            )
            _count(db, "processing", "pending", len(released.job_ids))
        case JobFailed() as failed:
            status = "pending" if failed.next_attempt_at else "error"
            db.execute(
                "UPDATE job SET status = ?, updated_at = ?, worker_id = NULL, lease_until = NULL, last_error = ?, "
                "attempts = ?, next_attempt_at = coalesce(?, next_attempt_at) WHERE id = ?",
                (status, time, failed.reason, failed.attempts, failed.next_attempt_at, failed.job_id),
            )
            _count(db, "processing", status)
        case JobsRequeued() as requeued:
            db.executemany(
                "UPDATE job SET status = 'pending', updated_at = ?1, attempts = 0, last_error = NULL, "
                "next_attempt_at = ?1 WHERE id = ?2",
                [(time, job_id) for job_id in requeued.job_ids],
            )
            _count(db, "error", "pending", len(requeued.job_ids))
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
    db.execute(
        "UPDATE job SET status = 'pending', updated_at = ?1, payload = ?2, size_bytes = ?3, attempts = 0, "
        "worker_id = NULL, last_error = NULL, next_attempt_at = ?1, lease_until = NULL WHERE id = ?4",
        (time, accepted.payload, accepted.size_bytes, accepted.job_id),
    )
    _count(db, "error", "pending")


def _finish(db: apsw.Connection, stored: EmbeddingStored, time: str) -> None:
    # Usually from processing; a result that comes after its claim ran out finds the job pending, or dead.
    before: str = db.execute("SELECT status FROM job WHERE id = ?", (stored.job_id,)).get
    db.execute(
        "UPDATE job SET status = 'done', updated_at = ?, worker_id = NULL, lease_until = NULL, last_error = NULL "
        "WHERE id = ?",
        (time, stored.job_id),
    )
    _count(db, before, "done")
    db.execute(
        "INSERT INTO model VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (stored.kind, stored.model, stored.dimension)
    )


def _count(db: apsw.Connection, before: str, after: str, jobs: int = 1) -> None:
    """Keep the counts true after `jobs` jobs went from one status to another, as the decision saw to."""
    db.execute(
        "UPDATE job_count SET jobs = jobs + CASE status WHEN ?1 THEN -?3 ELSE ?3 END WHERE status IN (?1, ?2)",
        (before, after, jobs),
    )
