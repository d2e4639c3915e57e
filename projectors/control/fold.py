"""The fold of the control log: documents, tokens, and who did what to them."""

from collections.abc import Mapping, Sequence
from typing import Any, assert_never, cast

import apsw
from pydantic_core import to_json

from events.envelope import Event
from projectors.control import endpoints, writers
from projectors.control.replicas import rows as replicas
from schemas.control import (
    ControlFact,
    DocumentArchived,
    DocumentChange,
    DocumentCreated,
    DocumentDeleted,
    DocumentRenamed,
    DocumentUnarchived,
    DocumentUndeleted,
    MessageRetentionSet,
    TokenMinted,
    TokenRevoked,
    TokensUsed,
)
from schemas.replicas import ReplicaEvicted, ReplicaRecalled, ReplicasReported
from schemas.webhook_endpoints import WebhookEndpointRemoved, WebhookEndpointSet
from schemas.writer_lease import WriterTaken

FOLD_VERSION = 1  # raise it when the same events give other rows


def apply(db: apsw.Connection, events: Sequence[Event]) -> None:
    """Fold events into `control.db`."""
    for event in events:
        _apply_one(db, event, cast(ControlFact, event.fact))


def _apply_one(db: apsw.Connection, event: Event, fact: ControlFact) -> None:
    match fact:
        case TokenMinted():
            _mint(db, event, fact)
        case TokenRevoked():
            db.execute("UPDATE token SET revoked_at = ? WHERE id = ?", (event.time, fact.token_id))
            _audit(db, event)
        case TokensUsed():
            db.executemany(
                "UPDATE token SET last_used_at = ? WHERE id = ?", [(event.time, token) for token in fact.token_ids]
            )
        case MessageRetentionSet():
            _set_retention(db, event, fact)
        case WebhookEndpointSet() | WebhookEndpointRemoved():
            endpoints.fold(db, event, fact)
            _audit(db, event, endpoints.told(fact))
        case ReplicasReported():
            replicas.fold(db, event, fact)
        case ReplicaEvicted() | ReplicaRecalled():
            replicas.fold(db, event, fact)
            _audit(db, event, {"replica": fact.replica_id, "reason": fact.reason})
        case WriterTaken():
            writers.fold(db, event, fact)
            _audit(db, event, {"epoch": fact.epoch, "place": fact.place})
        case _:
            _apply_to_document(db, event, fact)


def _apply_to_document(db: apsw.Connection, event: Event, fact: DocumentChange) -> None:
    match fact:
        case DocumentCreated():
            db.execute(
                "INSERT INTO document (db_id, name, owner, created_at, changed_at) VALUES (?1, ?2, ?3, ?4, ?4)",
                (fact.db_id, fact.name, fact.owner, event.time),
            )
            _audit(db, event, {"name": fact.name, "owner": fact.owner})
        case DocumentRenamed():
            _change(db, event, "name", fact.name, fact.db_id)
            _audit(db, event, {"name": fact.name})
        case DocumentArchived() | DocumentUnarchived():
            _change(db, event, "archived_at", event.time if isinstance(fact, DocumentArchived) else None, fact.db_id)
            _audit(db, event)
        case DocumentDeleted() | DocumentUndeleted():
            _change(db, event, "deleted_at", event.time if isinstance(fact, DocumentDeleted) else None, fact.db_id)
            _audit(db, event)
        case unreachable:
            assert_never(unreachable)


def _change(db: apsw.Connection, event: Event, column: str, value: str | None, db_id: str) -> None:
    db.execute(f"UPDATE document SET {column} = ?, changed_at = ? WHERE db_id = ?", (value, event.time, db_id))


def _set_retention(db: apsw.Connection, event: Event, fact: MessageRetentionSet) -> None:
    bounds = {"max_age_s": fact.max_age_s, "max_count": fact.max_count, "max_bytes": fact.max_bytes}
    if any(bounds.values()):
        db.execute("INSERT OR REPLACE INTO message_retention VALUES (?, ?, ?, ?)", (fact.db_id, *bounds.values()))
    else:
        db.execute("DELETE FROM message_retention WHERE db_id = ?", (fact.db_id,))
    _audit(db, event, bounds)


def _mint(db: apsw.Connection, event: Event, fact: TokenMinted) -> None:
    db.execute(
        "INSERT INTO token (id, number, hash, prefix, label, is_admin, created_by, created_at, expires_at, url) "
        "VALUES (?1, (SELECT coalesce(max(number), 0) + 1 FROM token), ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        (
            fact.token_id,
            fact.hash,
            fact.prefix,
            fact.label,
            fact.is_admin,
            fact.created_by,
            event.time,
            fact.expires_at,
            fact.url,
        ),
    )
    db.executemany(
        "INSERT INTO token_scope VALUES (?, ?, ?, ?, ?)",
        [(fact.token_id, at, scope.db_id, scope.action, scope.resource_prefix) for at, scope in enumerate(fact.scopes)],
    )
    scopes = [str(scope) for scope in fact.scopes]
    detail = {"label": fact.label, "is_admin": fact.is_admin, "scopes": scopes, "expires_at": fact.expires_at}
    _audit(db, event, detail | ({"url": True} if fact.url else {}))


def _audit(db: apsw.Connection, event: Event, detail: Mapping[str, Any] | None = None) -> None:
    action = event.fact.TYPE.removeprefix("forge.control.")
    db.execute(
        "INSERT INTO audit (at, principal, action, subject, detail) VALUES (?, ?, ?, ?, ?)",
        (event.time, event.principal, action, event.fact.subject, to_json(detail or {}).decode()),
    )
