"""How commands of the control domain are decided against `control.db`."""

from typing import Any

import apsw

from projectors.control import endpoints, queries, writers
from projectors.control.delegation import check_grant, check_revocation
from projectors.control.queries import DocumentRow, RetentionRow
from projectors.control.registry import deleted, unknown
from projectors.control.replicas import commands as replicas
from projectors.domain import Decision
from schemas.control import (
    ArchiveDocument,
    CreateDocument,
    DeleteDocument,
    DocumentArchived,
    DocumentChange,
    DocumentCreated,
    DocumentDeleted,
    DocumentRenamed,
    DocumentUnarchived,
    DocumentUndeleted,
    MessageRetentionSet,
    MintToken,
    NoteTokensUsed,
    RenameDocument,
    RevokeToken,
    SetMessageRetention,
    TokenMinted,
    TokenRevoked,
    TokensUsed,
)
from schemas.facts import Command
from schemas.machine_token import token_id
from schemas.problems import CONFLICT, INVALID_BODY, NOT_FOUND, Refusal
from schemas.replicas import EvictReplica, NoteReplicas, RecallReplica
from schemas.scopes import NOT_IN_URLS
from schemas.webhook_endpoints import RemoveWebhookEndpoint, SetWebhookEndpoint
from schemas.writer_lease import TakeWriter


def decide(db: apsw.Connection, command: Command, now: str) -> Decision:
    """Decide one command; raise `Refusal`. About a document, the answer is how it is afterwards."""
    match command:
        case CreateDocument():
            return _create(db, command, now)
        case RenameDocument():
            row = _present(db, command.db_id)
            renamed = DocumentRenamed(db_id=row.db_id, name=command.name)
            return _changed(row, row._replace(name=command.name), renamed, now)
        case ArchiveDocument():
            return _archive(_present(db, command.db_id), now, archived=command.archived)
        case DeleteDocument():
            return _delete(_known(db, command.db_id), now, deleted=command.deleted)
        case SetMessageRetention():
            return _set_retention(db, command)
        case MintToken() | RevokeToken() | NoteTokensUsed():
            return _about_tokens(db, command, now)
        case SetWebhookEndpoint() | RemoveWebhookEndpoint():
            return endpoints.decide(db, _present(db, command.db_id), command, now)
        case NoteReplicas() | EvictReplica() | RecallReplica():
            return replicas.decide(db, command)
        case TakeWriter():
            return writers.decide(db, command)
    raise TypeError(f"the control domain has no command {type(command).__name__}")


def describe(row: DocumentRow) -> dict[str, Any]:
    """Return a document as answers show it."""
    return {
        "db_id": row.db_id,
        "name": row.name,
        "owner": row.owner,
        "state": row.state,
        "created_at": row.created_at,
        "changed_at": row.changed_at,
        "archived_at": row.archived_at,
        "deleted_at": row.deleted_at,
    }


def _create(db: apsw.Connection, command: CreateDocument, now: str) -> Decision:
    name = command.name or command.db_id
    row = queries.document(db, command.db_id)
    if row is None:
        made = DocumentRow(command.db_id, name, command.by, now, now, None, None)
        created = DocumentCreated(db_id=command.db_id, name=name, owner=command.by)
        return Decision([created], {"created": True, "document": describe(made)})
    if row.deleted_at:
        why = f"there was a document {row.db_id}, deleted at {row.deleted_at}"
        fix = f"Bring it back with `POST /api/v1/db/{row.db_id}/undelete`, or choose another db_id."
        raise Refusal(CONFLICT.problem(why, fix=fix, field="db_id"))
    if row.owner != command.by:
        why = f"there is a document {row.db_id} already, and it belongs to somebody else"
        raise Refusal(CONFLICT.problem(why, fix="Choose another db_id.", field="db_id"))
    return Decision(answer={"created": False, "document": describe(row)})


def _archive(row: DocumentRow, now: str, *, archived: bool) -> Decision:
    fact = DocumentArchived(db_id=row.db_id) if archived else DocumentUnarchived(db_id=row.db_id)
    at = (row.archived_at or now) if archived else None
    return _changed(row, row._replace(archived_at=at), fact, now)


def _delete(row: DocumentRow, now: str, *, deleted: bool) -> Decision:
    fact = DocumentDeleted(db_id=row.db_id) if deleted else DocumentUndeleted(db_id=row.db_id)
    at = (row.deleted_at or now) if deleted else None
    return _changed(row, row._replace(deleted_at=at), fact, now)


def _changed(before: DocumentRow, after: DocumentRow, fact: DocumentChange, now: str) -> Decision:
    if after == before:
        return Decision(answer=describe(before))
    return Decision([fact], describe(after._replace(changed_at=now)))


def _known(db: apsw.Connection, db_id: str) -> DocumentRow:
    row = queries.document(db, db_id)
    if row is None:
        raise unknown(db_id)
    return row


def _present(db: apsw.Connection, db_id: str) -> DocumentRow:
    row = _known(db, db_id)
    if row.deleted_at:
        raise deleted(row)
    return row


def _set_retention(db: apsw.Connection, command: SetMessageRetention) -> Decision:
    row = _present(db, command.db_id)
    bounds = RetentionRow(command.max_age_s, command.max_count, command.max_bytes)
    answer = {"db_id": row.db_id, **bounds._asdict()}
    if queries.retention(db, row.db_id) == bounds:
        return Decision(answer=answer)
    return Decision([MessageRetentionSet(**answer)], answer)


def _about_tokens(db: apsw.Connection, command: MintToken | RevokeToken | NoteTokensUsed, now: str) -> Decision:
    match command:
        case MintToken():
            return _mint(db, command, now)
        case RevokeToken():
            return _revoke(db, command, now)
        case NoteTokensUsed():
            known = tuple(one for one in command.token_ids if queries.token(db, one))
            return Decision([TokensUsed(token_ids=known)] if known else [])


def _mint(db: apsw.Connection, command: MintToken, now: str) -> Decision:
    if command.is_admin and command.scopes:
        why = "an admin token may do everything: it has no scopes of its own"
        raise Refusal(INVALID_BODY.problem(why, fix="Leave out is_admin or scopes.", field="scopes"))
    if not command.is_admin and not command.scopes:
        why = "a token that is no admin needs at least one scope"
        raise Refusal(INVALID_BODY.problem(why, fix="Name scopes, each {db_id, action}.", field="scopes"))
    if command.url:
        _check_url(command)
    if command.expires_at is not None and command.expires_at <= now:
        why = f"expires_at lies in the past: {command.expires_at}, and now it is {now}"
        raise Refusal(INVALID_BODY.problem(why, field="expires_at"))
    if queries.token_by_hash(db, command.hash):
        raise Refusal(CONFLICT.problem("this token was minted before", fix="Mint another one."))
    check_grant(db, command, now)
    minted = TokenMinted(
        token_id=token_id(command.hash),
        hash=command.hash,
        prefix=command.prefix,
        label=command.label,
        is_admin=command.is_admin,
        scopes=command.scopes,
        expires_at=command.expires_at,
        created_by=command.by,
        url=command.url,
    )
    answer = {
        "id": minted.token_id,
        "prefix": minted.prefix,
        "label": minted.label,
        "is_admin": minted.is_admin,
        "scopes": [scope.model_dump() for scope in minted.scopes],
        "url": minted.url,
        "created_by": minted.created_by,
        "created_at": now,
        "expires_at": minted.expires_at,
        "last_used_at": None,
        "revoked_at": None,
    }
    return Decision([minted], answer)


def _check_url(command: MintToken) -> None:
    """Refuse a token for URLs that could do more harm in wrong hands than what it is for."""
    if command.is_admin:
        why = "an admin token cannot be for URLs, where others may come to see it"
        raise Refusal(INVALID_BODY.problem(why, fix="Leave out is_admin or url.", field="url"))
    if wide := sorted({scope.action for scope in command.scopes} & NOT_IN_URLS):
        why = f"a token for URLs cannot have the scope {wide[0]}: others may come to see it there"
        raise Refusal(INVALID_BODY.problem(why, fix="Leave out that scope or url.", field="scopes"))


def _revoke(db: apsw.Connection, command: RevokeToken, now: str) -> Decision:
    row = queries.token(db, command.token_id)
    if row is None or row.revoked_at or not check_revocation(db, row, command.by, now):
        why = f"there is no token {command.token_id[:40]!r}, or it is revoked already"
        raise Refusal(NOT_FOUND.problem(why, fix="`GET /api/v1/admin/tokens` lists the tokens."))
    return Decision([TokenRevoked(token_id=row.id)])
