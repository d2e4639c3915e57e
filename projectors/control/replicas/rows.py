"""The table of replicas in `control.db`: how it is folded, and what is read from it."""

from collections.abc import Sequence
from typing import NamedTuple

import apsw

from events.envelope import Event
from schemas.ids import Position
from schemas.instants import later
from schemas.replicas import FORGOTTEN_AFTER_S, ReplicaEvicted, ReplicaRecalled, ReplicaReport, ReplicasReported

_COLUMNS = (
    "db_id, replica_id, copy_id, kind, position, bootstrapping, reported_by, first_seen, last_seen, decided, reason"
)
EVICTED, RECALLED = "evicted", "recalled"


class ReplicaRow(NamedTuple):
    """One replica as the log knows it; `decided` is `evicted`, `recalled` or empty."""

    db_id: str
    replica_id: str
    copy_id: str
    kind: str
    position: Position
    bootstrapping: bool
    reported_by: str
    first_seen: str
    last_seen: str
    decided: str = ""
    reason: str = ""


def find(db: apsw.Connection, db_id: str, replica_id: str) -> ReplicaRow | None:
    """Return one replica of a document."""
    sql = f"SELECT {_COLUMNS} FROM replica WHERE db_id = ? AND replica_id = ?"
    row = db.execute(sql, (db_id, replica_id)).fetchone()
    return _row(row) if row else None


def every(db: apsw.Connection) -> list[ReplicaRow]:
    """Return the replicas of all documents, by document and name; their number is bounded."""
    return [_row(row) for row in db.execute(f"SELECT {_COLUMNS} FROM replica ORDER BY db_id, replica_id")]


def counts(db: apsw.Connection, db_id: str) -> tuple[int, int]:
    """Return how many replicas a document has, and how many all have."""
    sql = "SELECT count(*) FILTER (WHERE db_id = ?), count(*) FROM replica"
    of_document, in_all = db.execute(sql, (db_id,)).fetchone() or (0, 0)
    return of_document, in_all


def fold(db: apsw.Connection, event: Event, fact: ReplicasReported | ReplicaEvicted | ReplicaRecalled) -> None:
    """Write rows; those of which nothing was heard for long are forgotten by the next report."""
    if isinstance(fact, ReplicasReported):
        for report in fact.reports:
            _report(db, report, event.time)
        db.execute("DELETE FROM replica WHERE last_seen < ?", (later(event.time, -FORGOTTEN_AFTER_S),))
        return
    decided = EVICTED if isinstance(fact, ReplicaEvicted) else RECALLED
    db.execute(
        "UPDATE replica SET decided = ?, reason = ? WHERE db_id = ? AND replica_id = ? AND copy_id = ?",
        (decided, fact.reason, fact.db_id, fact.replica_id, fact.copy_id),
    )


def _report(db: apsw.Connection, report: ReplicaReport, time: str) -> None:
    """Write what was reported; what was decided about the copy stays as long as the copy."""
    db.execute(
        "INSERT INTO replica VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, '', '') "
        "ON CONFLICT DO UPDATE SET kind = ?4, position = ?5, bootstrapping = ?6, reported_by = ?7, last_seen = ?8, "
        "decided = iif(copy_id = ?3, decided, ''), reason = iif(copy_id = ?3, reason, ''), copy_id = ?3",
        (
            report.db_id,
            report.replica_id,
            report.copy_id,
            report.kind,
            report.position,
            report.bootstrapping,
            report.by,
            time,
        ),
    )


def _row(row: Sequence[object]) -> ReplicaRow:
    return ReplicaRow._make((*row[:4], Position.parse(str(row[4])), bool(row[5]), *row[6:]))
