"""What is read about leases."""

from collections.abc import Sequence
from typing import NamedTuple

import apsw

_NEWEST = "resource, owner, fence, expires_at, updated_at"


class NewestRow(NamedTuple):
    """The newest lease of a resource."""

    resource: str
    owner: str
    fence: int
    expires_at: str
    updated_at: str


class GrantRow(NamedTuple):
    """One lease of a resource."""

    fence: int
    owner: str
    principal: str
    acquired_at: str
    expires_at: str
    released_at: str | None


def newest(db: apsw.Connection, *, after: str, limit: int, held_at: str = "") -> list[NewestRow]:
    """Return up to `limit` resources after `after`, by name; only those that are held at a moment, if one is given."""
    if not _ever(db):
        return []
    rows = db.execute(
        f"SELECT {_NEWEST} FROM main.fencing_tokens WHERE resource > ? AND expires_at > ? ORDER BY resource LIMIT ?",
        (after, held_at, limit),
    )
    return [NewestRow._make(row) for row in rows]


def history(
    db: apsw.Connection, resource: str, *, before: int, limit: int
) -> tuple[NewestRow, Sequence[GrantRow]] | None:
    """Return a resource with up to `limit` of its leases older than `before`, newest first; None if it has none."""
    if not _ever(db):
        return None
    row = db.execute(f"SELECT {_NEWEST} FROM main.fencing_tokens WHERE resource = ?", (resource,)).fetchone()
    if row is None:
        return None
    grants = db.execute(
        "SELECT fence, owner, principal, acquired_at, expires_at, released_at FROM main.leases "
        "WHERE resource = ? AND fence < ? ORDER BY fence DESC LIMIT ?",
        (resource, before, limit),
    )
    return NewestRow._make(row), [GrantRow._make(grant) for grant in grants]


def _ever(db: apsw.Connection) -> bool:
    """Say whether the document has its system tables: reading about leases does not make them."""
    return bool(db.execute("SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = 'fencing_tokens')").get)
