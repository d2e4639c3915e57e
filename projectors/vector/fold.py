"""The two folds of the vector log: jobs, and embeddings.

Events of one type that follow each other are folded by one statement: a rebuild spends most of its time here.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import assert_never, cast

import apsw
from pydantic_core import to_json

from events.envelope import Event
from schemas.vector import (
    EmbeddingStored,
    JobFailed,
    JobsClaimed,
    JobsParked,
    JobsReleased,
    JobsRequeued,
    UploadAccepted,
    VectorFact,
)

SET_ASIDE = ("error", "awaiting_payload")  # what an upload or a requeue brings back
FOLD_VERSION = 1  # raise it when the same events give other rows


def apply_to_queue(db: apsw.Connection, events: Sequence[Event]) -> None:
    """Fold events into `vector/queue.db`."""
    for run in _runs(events):
        match cast(VectorFact, run[0].fact):
            case UploadAccepted():
                _accept(db, run)
            case EmbeddingStored():
                _finish(db, run)
            case JobsClaimed():
                _claim(db, run)
            case JobsReleased():
                _release(db, run)
            case JobsParked():
                _park(db, run)
            case JobFailed():
                _fail(db, run)
            case JobsRequeued():
                _requeue(db, run)
            case unreachable:
                assert_never(unreachable)


def apply_to_embeddings(db: apsw.Connection, events: Sequence[Event]) -> None:
    """Fold events into `vector/embeddings.db`."""
    for run in _runs(events):
        match cast(VectorFact, run[0].fact):
            case EmbeddingStored():
                _store(db, run)
            case UploadAccepted() | JobsClaimed() | JobsReleased() | JobsParked() | JobFailed() | JobsRequeued():
                pass  # queue.db folds these
            case unreachable:
                assert_never(unreachable)


def _runs(events: Sequence[Event]) -> Iterator[list[Event]]:
    return (list(run) for _, run in groupby(events, key=lambda event: type(event.fact)))


def _accept(db: apsw.Connection, run: list[Event]) -> None:
    accepted = [(cast(UploadAccepted, event.fact), event.time) for event in run]
    before = db.total_changes()
    db.executemany(
        "INSERT OR IGNORE INTO job (id, file_hash, kind, status, payload, size_bytes, next_attempt_at, created_at, "
        "updated_at) VALUES (?1, ?2, ?3, 'pending', ?4, ?5, ?6, ?6, ?6)",
        [(fact.job_id, fact.file_hash, fact.kind, fact.payload, fact.size_bytes, time) for fact, time in accepted],
    )
    added = db.total_changes() - before
    db.execute("UPDATE job_count SET jobs = jobs + ? WHERE status = 'pending'", (added,))
    if added == len(run):
        return
    # What was there already is a dead letter, or lacked its bytes, and was handed in again.
    for status in SET_ASIDE:
        before = db.total_changes()
        db.executemany(
            "UPDATE job SET status = 'pending', updated_at = ?1, payload = ?2, size_bytes = ?3, attempts = 0, "
            "worker_id = NULL, last_error = NULL, next_attempt_at = ?1, lease_until = NULL "
            "WHERE id = ?4 AND status = ?5",
            [(time, fact.payload, fact.size_bytes, fact.job_id, status) for fact, time in accepted],
        )
        _count(db, status, "pending", db.total_changes() - before)


def _claim(db: apsw.Connection, run: list[Event]) -> None:
    for event in run:
        claimed = cast(JobsClaimed, event.fact)
        db.executemany(
            "UPDATE job SET status = 'processing', updated_at = ?, worker_id = ?, lease_until = ? WHERE id = ?",
            [(event.time, claimed.worker_id, claimed.lease_until, job_id) for job_id in claimed.job_ids],
        )
        _count(db, "pending", "processing", len(claimed.job_ids))


def _release(db: apsw.Connection, run: list[Event]) -> None:
    for event in run:
        released = cast(JobsReleased, event.fact)
        db.executemany(
            "UPDATE job SET status = 'pending', updated_at = ?, worker_id = NULL, lease_until = NULL, "
            "last_error = ?, next_attempt_at = ? WHERE id = ?",
            [(event.time, released.reason, released.next_attempt_at, job_id) for job_id in released.job_ids],
        )
        _count(db, "processing", "pending", len(released.job_ids))


def _park(db: apsw.Connection, run: list[Event]) -> None:
    for event in run:
        parked = cast(JobsParked, event.fact)
        db.executemany(
            "UPDATE job SET status = 'awaiting_payload', updated_at = ?, worker_id = NULL, lease_until = NULL, "
            "last_error = ? WHERE id = ?",
            [(event.time, parked.reason, job_id) for job_id in parked.job_ids],
        )
        _count(db, "processing", "awaiting_payload", len(parked.job_ids))


def _fail(db: apsw.Connection, run: list[Event]) -> None:
    for event in run:
        failed = cast(JobFailed, event.fact)
        status = "pending" if failed.next_attempt_at else "error"
        db.execute(
            "UPDATE job SET status = ?, updated_at = ?, worker_id = NULL, lease_until = NULL, last_error = ?, "
            "attempts = ?, next_attempt_at = coalesce(?, next_attempt_at) WHERE id = ?",
            (status, event.time, failed.reason, failed.attempts, failed.next_attempt_at, failed.job_id),
        )
        _count(db, "processing", status, 1)


def _requeue(db: apsw.Connection, run: list[Event]) -> None:
    for event in run:
        requeued = cast(JobsRequeued, event.fact)
        for status in SET_ASIDE:
            before = db.total_changes()
            db.executemany(
                "UPDATE job SET status = 'pending', updated_at = ?1, attempts = 0, last_error = NULL, "
                "next_attempt_at = ?1 WHERE id = ?2 AND status = ?3",
                [(event.time, job_id, status) for job_id in requeued.job_ids],
            )
            _count(db, status, "pending", db.total_changes() - before)


def _finish(db: apsw.Connection, run: list[Event]) -> None:
    stored = [(cast(EmbeddingStored, event.fact), event.time) for event in run]
    # Usually they are processing; a result that comes after its claim ran out finds its job pending, or dead.
    before = db.execute(
        "SELECT status, count(*) FROM job WHERE id IN (SELECT value FROM json_each(?)) GROUP BY status",
        (to_json([fact.job_id for fact, _ in stored]),),
    ).fetchall()
    db.executemany(
        "UPDATE job SET status = 'done', updated_at = ?, worker_id = NULL, lease_until = NULL, last_error = NULL "
        "WHERE id = ?",
        [(time, fact.job_id) for fact, time in stored],
    )
    for status, jobs in before:
        _count(db, cast(str, status), "done", cast(int, jobs))
    db.executemany(
        "INSERT INTO model VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        sorted({(fact.kind, fact.model, fact.dimension) for fact, _ in stored}),
    )


def _store(db: apsw.Connection, run: list[Event]) -> None:
    stored = [(cast(EmbeddingStored, event.fact), event.time) for event in run]
    db.executemany(
        "INSERT INTO embedding VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) ON CONFLICT (kind, file_hash) DO UPDATE "
        "SET model = ?3, dimension = ?4, vector = ?5, updated_at = ?6",
        [(fact.kind, fact.file_hash, fact.model, fact.dimension, fact.vector, time) for fact, time in stored],
    )


def _count(db: apsw.Connection, before: str, after: str, jobs: int) -> None:
    """Keep the counts true after `jobs` jobs went from one status to another, as the decision saw to."""
    db.execute(
        "UPDATE job_count SET jobs = jobs + CASE status WHEN ?1 THEN -?3 ELSE ?3 END WHERE status IN (?1, ?2)",
        (before, after, jobs),
    )
