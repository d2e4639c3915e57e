"""Who is asking and what they may do, decided in this one place."""

import asyncio
import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from schemas.instants import now as wall_clock
from schemas.instants import parse_instant
from schemas.scopes import ANY_DB, Scope, covers_db

ROOT = "root"
ANONYMOUS = "anonymous"
NEVER_END = frozenset({ROOT, ANONYMOUS})
"""Whose credentials do not end while the node runs."""
ANONYMOUS_ACTIONS = ("stream.read", "stream.write")
SCHEMES = frozenset({"bearer", "token"})
TOKEN_LENGTH_MAX = 512
SLEEP_S_MAX = 60.0  # then the clock is read again: somebody may have set it


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who showed a valid credential, and what it allows; an admin may do everything.

    `name` is `root`, `token:<id>` or `anonymous`; `expires_at` is None for a credential that does not end by itself.
    One that is for a `url` is good for its scopes alone: whatever it owns, it is nobody's owner.
    """

    name: str
    scopes: tuple[Scope, ...] = ()
    is_admin: bool = False
    expires_at: str | None = None
    url: bool = False


class Unusable(Exception):
    """A credential that is known but no longer good; the message says why."""


class Credentials(Protocol):
    """Where tokens are found that were minted here."""

    def find(self, token: str) -> Principal | None:
        """Return whose token it is; None if nobody's; raise `Unusable` if it was revoked."""

    async def ended(self, principal: Principal) -> None:
        """Return when the credential is revoked."""


class Owners(Protocol):
    """Who owns the documents."""

    def owner(self, db_id: str) -> str | None:
        """Return the owner's name, None if there is no such document."""

    def owns_any(self, name: str) -> bool:
        """Say whether somebody owns some document."""


class Authoriser(Protocol):
    """What the adapter and the command door need to know about tokens and scopes."""

    def authenticate(self, authorization: str | None) -> Principal | None: ...
    def why_not(self, authorization: str | None) -> str: ...
    def allows(self, principal: Principal, action: str, db_id: str = ANY_DB, resource: str = "") -> bool: ...
    def allows_anywhere(self, principal: Principal, actions: Sequence[str]) -> bool: ...
    def allows_below(self, principal: Principal, actions: Sequence[str], db_id: str) -> bool: ...
    async def ended(self, principal: Principal) -> None: ...


class Access:
    """Checks tokens and scopes. Of the root token it keeps only the SHA-256."""

    def __init__(
        self,
        root_token: str,
        credentials: Credentials | None = None,
        owners: Owners | None = None,
        *,
        clock: Callable[[], str] = wall_clock,
    ) -> None:
        """`root_token` grants everything; it must not be empty. `clock` returns the present moment."""
        if not root_token.strip():
            raise ValueError("the root token is empty: delete root.token so that a new one is made")
        self._root_digest = _digest(root_token.strip())
        self._root = Principal(ROOT, is_admin=True)
        self._credentials = credentials
        self._owners = owners
        self._clock = clock

    def authenticate(self, authorization: str | None) -> Principal | None:
        """Return who an `Authorization` header value belongs to, or None. Raise `Refusal` (503) if nobody can say yet.

        A token may follow `Bearer` or `token`, in any case, or stand alone.
        """
        try:
            return self._find(token) if (token := parse_authorization(authorization)) else None
        except Unusable:
            return None

    def why_not(self, authorization: str | None) -> str:
        """Return why `authenticate` knows nobody by this header value."""
        if not authorization:
            return "there is no Authorization header"
        if (token := parse_authorization(authorization)) is None:
            return "the Authorization header is not `Bearer <token>`"
        try:
            self._find(token)
        except Unusable as error:
            return str(error)
        return "the token is not known"

    def _find(self, token: str) -> Principal | None:
        if hmac.compare_digest(_digest(token), self._root_digest):
            return self._root
        found = self._credentials.find(token) if self._credentials else None
        if found and found.expires_at is not None and self._clock() >= found.expires_at:
            raise Unusable(f"the token expired at {found.expires_at}")
        return found

    def allows(self, principal: Principal, action: str, db_id: str = ANY_DB, resource: str = "") -> bool:
        """Say whether `principal` may do `action` on a document (`*`: on all of them, now and later)."""
        if principal.is_admin:
            return True
        if any(scope.covers(action, db_id, resource) for scope in principal.scopes):
            return True
        return self._owns(principal, db_id)

    def allows_anywhere(self, principal: Principal, actions: Sequence[str]) -> bool:
        """Say whether `principal` may do one of `actions` somewhere."""
        if principal.is_admin or any(scope.action in actions for scope in principal.scopes):
            return True
        return self._owners is not None and not principal.url and self._owners.owns_any(principal.name)

    def allows_below(self, principal: Principal, actions: Sequence[str], db_id: str) -> bool:
        """Say whether `principal` may do one of `actions` on some resource of a document."""
        if principal.is_admin or any(scope.reaches(action, db_id) for scope in principal.scopes for action in actions):
            return True
        return self._owns(principal, db_id)

    def _owns(self, principal: Principal, db_id: str) -> bool:
        if db_id == ANY_DB or self._owners is None or principal.url:
            return False
        return self._owners.owner(db_id) == principal.name

    def explain(self, token: str, action: str, db_id: str = ANY_DB, resource: str = "") -> tuple[bool, list[str]]:
        """Return whether `token` may do `action` there, and why, in sentences."""
        try:
            principal = self._find(token)
        except Unusable as error:
            return False, [f"No: {error}."]
        if principal is None:
            return False, ["No: the token is not known here; it may be misspelt, or of another node."]
        asked = f"{action} on {db_id}" + (f", {resource}" if resource else "")
        reasons = [f"The token is {principal.name}, valid until {principal.expires_at or 'it is revoked'}."]
        if principal.url:
            reasons.append("It may be given in a URL, where a route takes that.")
        if principal.is_admin:
            return True, [*reasons, f"Yes: it is an admin, which may do everything, {asked} included."]
        reasons += [_explain_scope(scope, action, db_id, resource) for scope in principal.scopes]
        if db_id != ANY_DB and self._owners is not None and not principal.url:
            owner = self._owners.owner(db_id)
            owns = "It owns" if owner == principal.name else "It does not own"
            reasons.append(f"{owns} {db_id}." if owner else f"There is no document {db_id} that it could own.")
        allowed = self.allows(principal, action, db_id, resource)
        return allowed, [*reasons, f"{'Yes' if allowed else 'No'}: {asked} is {'' if allowed else 'not '}allowed."]

    async def ended(self, principal: Principal) -> None:
        """Return when the credential of `principal` is revoked or expires."""
        if self._credentials is None or principal.name in NEVER_END:
            await asyncio.get_running_loop().create_future()
            return
        if principal.expires_at is None:
            await self._credentials.ended(principal)
            return
        expires_at = parse_instant(principal.expires_at)
        while (left_s := (expires_at - parse_instant(self._clock())).total_seconds()) > 0:
            try:
                async with asyncio.timeout(min(left_s, SLEEP_S_MAX)):
                    await self._credentials.ended(principal)
                    return
            except TimeoutError:
                continue


def anonymous_principal(documents: Iterable[str]) -> Principal | None:
    """Return whoever shows no credential at all, and what he may do on `documents`; None if there are none."""
    scopes = tuple(Scope(db_id=db_id, action=action) for db_id in documents for action in ANONYMOUS_ACTIONS)
    return Principal(ANONYMOUS, scopes) if scopes else None


def parse_authorization(authorization: str | None) -> str | None:
    """Return the token of an `Authorization` header value, None if it does not have the form of one."""
    match (authorization or "")[: 2 * TOKEN_LENGTH_MAX].split():
        case [token] | [("Bearer" | "bearer"), token]:
            pass
        case [scheme, token] if scheme.lower() in SCHEMES:
            pass
        case _:
            return None
    return token if len(token) <= TOKEN_LENGTH_MAX and token.lower() not in SCHEMES else None


def _explain_scope(scope: Scope, action: str, db_id: str, resource: str) -> str:
    if scope.action != action:
        return f"The scope {scope} is about another action."
    if not covers_db(scope.db_id, db_id):
        return f"The scope {scope} does not name {'all documents' if db_id == ANY_DB else db_id}."
    if not scope.covers(action, db_id, resource):
        return f"The scope {scope} does not reach {resource or 'the whole of it'}."
    return f"The scope {scope} covers it."


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()
