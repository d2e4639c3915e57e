"""Who is asking and what they may do, decided in this one place."""

import hmac
from dataclasses import dataclass
from hashlib import sha256

ALL_SCOPES = "*"


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who showed a valid credential, and the scopes that it grants."""

    name: str
    scopes: frozenset[str]


class Authenticator:
    """Checks bearer tokens; it keeps only their SHA-256."""

    def __init__(self, root_token: str) -> None:
        """`root_token` grants every scope; it must not be empty."""
        if not root_token.strip():
            raise ValueError("the root token is empty: delete root.token so that a new one is made")
        self._root_digest = _digest(root_token.strip())
        self._root = Principal("root", frozenset({ALL_SCOPES}))

    def authenticate(self, authorization: str | None) -> Principal | None:
        """Return who an `Authorization` header value belongs to, or None."""
        scheme, _, token = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        if hmac.compare_digest(_digest(token.strip()), self._root_digest):
            return self._root
        return None

    def allows(self, principal: Principal, scope: str) -> bool:
        """Say whether `principal` has `scope`."""
        return scope in principal.scopes or ALL_SCOPES in principal.scopes


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()
