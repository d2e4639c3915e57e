"""How commands about replicas are decided against `control.db`."""

import apsw

from projectors.control import queries
from projectors.control.replicas.rows import EVICTED, RECALLED, ReplicaRow, counts, find
from projectors.domain import Decision
from schemas.problems import NOT_FOUND, Refusal
from schemas.replicas import (
    REPLICAS_MAX,
    REPLICAS_OF_DOCUMENT_MAX,
    EvictReplica,
    NoteReplicas,
    RecallReplica,
    ReplicaEvicted,
    ReplicaRecalled,
    ReplicaReport,
    ReplicasReported,
)


def decide(db: apsw.Connection, command: NoteReplicas | EvictReplica | RecallReplica) -> Decision:
    """Decide one command; raise `Refusal`."""
    return _note(db, command) if isinstance(command, NoteReplicas) else _give_up(db, command)


def _note(db: apsw.Connection, command: NoteReplicas) -> Decision:
    """Keep of the reports what is news: a position never goes back while a copy stays the same."""
    kept: list[ReplicaReport] = []
    new_in: dict[str, int] = {}
    for report in command.reports:
        row = find(db, report.db_id, report.replica_id)
        if row is None:
            of_document, in_all = counts(db, report.db_id)
            if of_document + new_in.get(report.db_id, 0) >= REPLICAS_OF_DOCUMENT_MAX:
                continue
            if in_all + sum(new_in.values()) >= REPLICAS_MAX:
                continue
        document = queries.document(db, report.db_id)
        if document is None or document.deleted_at:
            continue
        if row is not None and row.copy_id == report.copy_id:
            if row.decided:
                continue
            if report.stands_at < row.position:
                report = report.model_copy(update={"position": str(row.position)})
        if row is None:
            new_in[report.db_id] = new_in.get(report.db_id, 0) + 1
        kept.append(report)
    return Decision([ReplicasReported(reports=tuple(kept))] if kept else [], {"noted": len(kept)})


def _give_up(db: apsw.Connection, command: EvictReplica | RecallReplica) -> Decision:
    """Give up the copy that a replica follows with."""
    row = find(db, command.db_id, command.replica_id)
    if row is None:
        why = f"{command.db_id} has no replica {command.replica_id!r}"
        raise Refusal(NOT_FOUND.problem(why, fix="`forge replica list` shows those that have reported."))
    kind = ReplicaEvicted if isinstance(command, EvictReplica) else ReplicaRecalled
    decided = EVICTED if kind is ReplicaEvicted else RECALLED
    if row.decided in (EVICTED, decided):
        return Decision(answer=_told(row))
    fact = kind(db_id=row.db_id, replica_id=row.replica_id, copy_id=row.copy_id, reason=command.reason)
    return Decision([fact], _told(row._replace(decided=decided, reason=command.reason)))


def _told(row: ReplicaRow) -> dict[str, object]:
    return {
        "db_id": row.db_id,
        "replica_id": row.replica_id,
        "copy_id": row.copy_id,
        "decided": row.decided,
        "reason": row.reason,
    }
