"""What one may hand on: nothing that one does not hold oneself.

A scope may be handed on by who holds `admin.token` and the scope itself on all documents of its pattern, or owns its
document; everything by root and by admins. A token never outlives the one that it was minted with.
"""

import apsw

from projectors.control import queries
from projectors.control.queries import TokenRow
from schemas.control import MintToken
from schemas.problems import FORBIDDEN, Refusal
from schemas.scopes import Scope

ROOT = "root"
GRANT = "admin.token"
_TOKEN = "token:"


def check_grant(db: apsw.Connection, command: MintToken, now: str) -> None:
    """Refuse (403) to mint a token that may do, or last, more than what it is minted with."""
    if command.by == ROOT:
        return
    holder = _holder(db, command.by, now)
    if holder is None:
        raise Refusal(FORBIDDEN.problem(f"{command.by} is not valid any more"))
    if holder.url:
        raise Refusal(FORBIDDEN.problem("a token for URLs cannot mint others"))
    if holder.expires_at is not None and (command.expires_at is None or command.expires_at > holder.expires_at):
        why = f"the token that asks ends at {holder.expires_at}: what it mints cannot last longer"
        fix = f"Set expires_at to {holder.expires_at} or earlier."
        raise Refusal(FORBIDDEN.problem(why, fix=fix, field="expires_at"))
    if holder.is_admin:
        return
    if command.is_admin:
        raise Refusal(FORBIDDEN.problem("only an admin can mint an admin token", field="is_admin"))
    for scope in command.scopes:
        if not may_grant(db, holder, scope):
            why = f"the token that asks cannot hand on {scope}: it must hold that and {GRANT} on {scope.db_id} itself"
            raise Refusal(FORBIDDEN.problem(why, field="scopes"))


def check_revocation(db: apsw.Connection, token: TokenRow, by: str, now: str) -> bool:
    """Say whether `by` may end `token`: it minted it, or could have."""
    return by in (ROOT, token.created_by) or bool((holder := _holder(db, by, now)) and may_manage(db, holder, token))


def may_manage(db: apsw.Connection, holder: TokenRow, token: TokenRow) -> bool:
    """Say whether `holder` may see and end `token`."""
    if holder.is_admin or token.created_by == holder.principal:
        return True
    return not token.is_admin and all(may_grant(db, holder, scope) for scope in token.scopes)


def may_grant(db: apsw.Connection, holder: TokenRow, scope: Scope) -> bool:
    """Say whether `holder` may hand on `scope`."""
    document = queries.document(db, scope.db_id)  # there is none whose name is a pattern
    if document and document.owner == holder.principal:
        return True
    grants = any(held.covers(GRANT, scope.db_id) for held in holder.scopes)
    return grants and any(held.includes(scope) for held in holder.scopes)


def _holder(db: apsw.Connection, principal: str, now: str) -> TokenRow | None:
    """Return the token of a principal, None if it is not valid."""
    row = queries.token(db, principal.removeprefix(_TOKEN)) if principal.startswith(_TOKEN) else None
    if row is None or row.revoked_at or (row.expires_at is not None and row.expires_at <= now):
        return None
    return row
