"""What is read from `control.db`; no other file selects from its tables."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw
from pydantic_core import from_json

from schemas.scopes import Scope

_DOCUMENT = "db_id, name, owner, created_at, changed_at, archived_at, deleted_at"
_TOKEN = "id, number, prefix, label, is_admin, created_by, created_at, expires_at, last_used_at, revoked_at, url"
_STATES = {
    "active": "archived_at IS NULL AND deleted_at IS NULL",
    "archived": "archived_at IS NOT NULL AND deleted_at IS NULL",
    "deleted": "deleted_at IS NOT NULL",
    "present": "deleted_at IS NULL",
    "all": "TRUE",
}
STATES = tuple(_STATES)


class DocumentRow(NamedTuple):
    """One document of the registry; `name` is for people, `owner` a principal."""

    db_id: str
    name: str
    owner: str
    created_at: str
    changed_at: str
    archived_at: str | None
    deleted_at: str | None

    @property
    def state(self) -> str:
        """`active`, `archived` (takes no writes) or `deleted`."""
        return "deleted" if self.deleted_at else "archived" if self.archived_at else "active"


class TokenRow(NamedTuple):
    """One token, the `number`th that was minted; nothing here opens anything."""

    id: str
    number: int
    prefix: str
    label: str
    is_admin: bool
    created_by: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None
    url: bool
    scopes: tuple[Scope, ...]

    @property
    def principal(self) -> str:
        """Who somebody with this token is."""
        return f"token:{self.id}"


class RetentionRow(NamedTuple):
    """Which messages a document keeps: the newest that keep these bounds; None is no bound."""

    max_age_s: int | None = None
    max_count: int | None = None
    max_bytes: int | None = None


class AuditRow(NamedTuple):
    """One change of the control plane."""

    id: int
    at: str
    principal: str
    action: str
    subject: str
    detail: dict[str, Any]


def document(db: apsw.Connection, db_id: str) -> DocumentRow | None:
    """Return a document, also one that is archived or deleted."""
    row = db.execute(f"SELECT {_DOCUMENT} FROM document WHERE db_id = ?", (db_id,)).fetchone()
    return DocumentRow(*row) if row else None


def owns_any(db: apsw.Connection, owner: str) -> bool:
    """Say whether `owner` has some document, deleted ones included."""
    return bool(db.execute("SELECT EXISTS (SELECT 1 FROM document WHERE owner = ?)", (owner,)).get)


def documents(
    db: apsw.Connection, visible: "Visible", *, state: str, search: str, after: str, limit: int
) -> list[DocumentRow]:
    """Return up to `limit` documents that are `visible`, by `db_id`; `search` is part of id or name, in any case."""
    condition, arguments = visible.condition()
    rows = db.execute(
        f"SELECT {_DOCUMENT} FROM document WHERE db_id > ? AND {_STATES[state]} "
        "AND (? = '' OR instr(lower(db_id), ?) OR instr(lower(name), ?)) "
        f"AND {condition} ORDER BY db_id LIMIT ?",
        (after, search, search.lower(), search.lower(), *arguments, limit),
    )
    return [DocumentRow(*row) for row in rows]


class Visible(NamedTuple):
    """Which documents somebody may see: all, or those that he owns or that a pattern of his scopes names."""

    everything: bool
    owner: str = ""
    patterns: tuple[str, ...] = ()

    def condition(self) -> tuple[str, list[Any]]:
        """Return it as SQL, with its arguments."""
        if self.everything or "*" in self.patterns:
            return "TRUE", []
        terms, arguments = ["owner = ?"], [self.owner]
        for pattern in self.patterns:
            if pattern.endswith("*"):
                terms.append("substr(db_id, 1, length(?)) = ?")
                arguments += [pattern[:-1], pattern[:-1]]
            else:
                terms.append("db_id = ?")
                arguments.append(pattern)
        return f"({' OR '.join(terms)})", arguments


def retention(db: apsw.Connection, db_id: str) -> RetentionRow:
    """Return which messages a document keeps."""
    row = db.execute("SELECT max_age_s, max_count, max_bytes FROM message_retention WHERE db_id = ?", (db_id,))
    return RetentionRow._make(next(iter(row), (None, None, None)))


def retentions(db: apsw.Connection) -> dict[str, RetentionRow]:
    """Return the bounds of all documents that have some and take writes, by `db_id`."""
    rows = db.execute(
        f"SELECT db_id, max_age_s, max_count, max_bytes FROM message_retention JOIN document USING (db_id) "
        f"WHERE {_STATES['active']}"
    )
    return {db_id: RetentionRow(*bounds) for db_id, *bounds in rows}


def token_by_hash(db: apsw.Connection, token_hash: str) -> TokenRow | None:
    """Return the token with this SHA-256, also one that was revoked."""
    row = db.execute(f"SELECT {_TOKEN} FROM token WHERE hash = ?", (token_hash,)).fetchone()
    return _token(db, row) if row else None


def token(db: apsw.Connection, token_id: str) -> TokenRow | None:
    """Return a token, also one that was revoked."""
    row = db.execute(f"SELECT {_TOKEN} FROM token WHERE id = ?", (token_id,)).fetchone()
    return _token(db, row) if row else None


def tokens(db: apsw.Connection, *, before: int, limit: int) -> list[TokenRow]:
    """Return up to `limit` tokens, newest first, minted before number `before`."""
    sql = f"SELECT {_TOKEN} FROM token WHERE number < ? ORDER BY number DESC LIMIT ?"
    rows = db.execute(sql, (before, limit)).fetchall()
    return [_token(db, row) for row in rows]


def _token(db: apsw.Connection, row: Sequence[Any]) -> TokenRow:
    scopes = db.execute(
        "SELECT db_id, action, resource_prefix FROM token_scope WHERE token_id = ? ORDER BY position", (row[0],)
    )
    found = tuple(Scope(db_id=db_id, action=action, resource_prefix=prefix) for db_id, action, prefix in scopes)
    return TokenRow._make((*row[:4], bool(row[4]), *row[5:-1], bool(row[-1]), found))


def audit(db: apsw.Connection, *, subject: str, before: int, limit: int) -> list[AuditRow]:
    """Return up to `limit` lines older than line `before`, newest first; of one `subject` unless that is empty."""
    rows = db.execute(
        "SELECT id, at, principal, action, subject, detail FROM audit "
        "WHERE id < ? AND (? = '' OR subject = ?) ORDER BY id DESC LIMIT ?",
        (before, subject, subject, limit),
    )
    return [AuditRow._make((*row[:5], from_json(row[5]))) for row in rows]
