"""The tokens of a node, and what they open."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from ulid import ULID

from forge.client.transport import Transport
from schemas.scopes import Scope
from schemas.tokens import MintedToken, TokensReply, TokenView, WhyReply

PATH = "/api/v1/admin/tokens"
PAGE = 500


class Tokens:
    """`client.tokens`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def mint(
        self,
        label: str,
        scopes: Sequence[Scope] = (),
        *,
        admin: bool = False,
        expires_at: str | None = None,
        url: bool = False,
    ) -> MintedToken:
        """Make a token; its secret is `token` in the answer, and nowhere else ever. A `url` may hold it if asked."""
        body: dict[str, Any] = {"label": label, "is_admin": admin, "scopes": [scope.model_dump() for scope in scopes]}
        body |= {"expires_at": expires_at} if expires_at else {}
        body |= {"url": True} if url else {}
        headers = {"Idempotency-Key": str(ULID())}
        return self._transport.parse(MintedToken, await self._transport.send("POST", PATH, json=body, headers=headers))

    async def all(self) -> AsyncIterator[TokenView]:
        """Yield the tokens that the caller may revoke, newest first."""
        before: int | None = None
        while True:
            params = {"limit": PAGE} | ({"before": before} if before else {})
            page = self._transport.parse(TokensReply, await self._transport.send("GET", PATH, params=params))
            for token in page.tokens:
                yield token
            before = page.next
            if before is None:
                return

    async def revoke(self, token_id: str) -> None:
        """End a token, and within a second every stream that it opened."""
        headers = {"Idempotency-Key": str(ULID())}
        await self._transport.send("DELETE", f"{PATH}/{token_id}", headers=headers)

    async def why(self, token: str, action: str, db_id: str, resource: str = "") -> WhyReply:
        """Explain whether `token`, a secret or an id, may do `action` on a document."""
        body = {"token": token, "action": action, "db_id": db_id, "resource": resource}
        return await self._transport.ask(WhyReply, "POST", f"{PATH}/why", body)


def parse_scope(text: str) -> Scope:
    """Read `ACTION:DB` or `ACTION:DB:RESOURCE`; raise `ValueError`."""
    action, _, rest = text.partition(":")
    db_id, _, resource = rest.partition(":")
    if not action or not db_id:
        raise ValueError(f"a scope is ACTION:DB or ACTION:DB:RESOURCE, for example query.read:notes, not {text!r}")
    return Scope(action=action, db_id=db_id, resource_prefix=resource)


def format_scope(scope: Scope) -> str:
    """Write what `parse_scope` reads."""
    return ":".join(part for part in (scope.action, scope.db_id, scope.resource_prefix) if part)
