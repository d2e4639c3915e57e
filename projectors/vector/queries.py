"""What is read from the vector projections; no other file selects from their tables."""

from collections.abc import Iterable, Sequence

import apsw
from pydantic_core import to_json

from schemas.vector_bodies import JobView

_JOB_COLUMNS = "id, file_hash, kind, status, attempts, last_error, next_attempt_at, created_at, updated_at"


def present(db: apsw.Connection, kind: str, hashes: Sequence[str]) -> set[str]:
    """Return those of `hashes` whose vector is stored (embeddings.db)."""
    rows = db.execute(
        "SELECT file_hash FROM embedding WHERE kind = ? AND file_hash IN (SELECT value FROM json_each(?))",
        (kind, to_json(hashes)),
    )
    return {row[0] for row in rows}


def in_progress(db: apsw.Connection, kind: str, hashes: Sequence[str]) -> set[str]:
    """Return those of `hashes` that have a pending or processing job (queue.db)."""
    rows = db.execute(
        "SELECT file_hash FROM job WHERE kind = ? AND status IN ('pending', 'processing') "
        "AND file_hash IN (SELECT value FROM json_each(?))",
        (kind, to_json(hashes)),
    )
    return {row[0] for row in rows}


def unfinished_payloads(db: apsw.Connection, after: int, limit: int) -> list[tuple[int, str]]:
    """Return id and payload of up to `limit` jobs that are not done or given up, with ids above `after` (queue.db)."""
    rows = db.execute(
        "SELECT id, payload FROM job WHERE status IN ('pending', 'processing', 'awaiting_payload') AND id > ? "
        "ORDER BY id LIMIT ?",
        (after, limit),
    )
    return [(row[0], row[1]) for row in rows]


def chunks(hashes: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    """Split `hashes` into pieces of at most `size`."""
    return (hashes[at : at + size] for at in range(0, len(hashes), size))


def embedding(db: apsw.Connection, kind: str, file_hash: str) -> tuple[str, int, bytes, str, str] | None:
    """Return model, dimension, vector, creation and change of a stored embedding (embeddings.db)."""
    row = db.execute(
        "SELECT model, dimension, vector, created_at, updated_at FROM embedding WHERE kind = ? AND file_hash = ?",
        (kind, file_hash),
    ).fetchone()
    return (row[0], row[1], row[2], row[3], row[4]) if row else None


def newest_model(db: apsw.Connection, kind: str, dimension: int) -> str | None:
    """Return the model of the newest stored vector of `kind` with this dimension (embeddings.db)."""
    row = db.execute(
        "SELECT model FROM embedding WHERE kind = ? AND dimension = ? ORDER BY rowid DESC LIMIT 1", (kind, dimension)
    ).fetchone()
    return str(row[0]) if row else None


def jobs(db: apsw.Connection, status: str, kind: str | None, after: int, limit: int) -> list[JobView]:
    """Return up to `limit` jobs of `status` with an id above `after`, in order (queue.db)."""
    rows = db.execute(
        f"SELECT {_JOB_COLUMNS} FROM job WHERE status = ?1 AND id > ?2 AND (?3 IS NULL OR kind = ?3) "
        "ORDER BY id LIMIT ?4",
        (status, after, kind, limit),
    )
    return [
        JobView(
            job_id=row[0],
            file_hash=row[1],
            kind=row[2],
            status=row[3],
            attempts=row[4],
            last_error=row[5],
            next_attempt_at=row[6],
            created_at=row[7],
            updated_at=row[8],
        )
        for row in rows
    ]


def job_counts(db: apsw.Connection) -> dict[str, int]:
    """Return how many jobs have each status (queue.db)."""
    return {str(status): int(jobs) for status, jobs in db.execute("SELECT status, jobs FROM job_count ORDER BY status")}
