"""The tokens of a node, and what they open."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from forge.client.transport import Transport


class Scope(NamedTuple):
    """One thing that a token opens: an action, on the documents that `db_id` matches, below a resource."""

    action: str
    db_id: str
    resource_prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> "Scope":
        """Read `action:db_id` or `action:db_id:resource`; raise `ValueError`."""
        action, _, rest = text.partition(":")
        db_id, _, resource = rest.partition(":")
        if not action or not db_id:
            raise ValueError(f"a scope is ACTION:DB or ACTION:DB:RESOURCE, for example query.read:notes, not {text!r}")
        return cls(action, db_id, resource)

    def __str__(self) -> str:
        return ":".join(part for part in self if part)


class Tokens:
    """`client.tokens`. Descriptions are the JSON objects of the API, which never hold a secret but in `mint`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def mint(
        self, label: str, scopes: Sequence[Scope] = (), *, admin: bool = False, expires_at: str | None = None
    ) -> dict[str, Any]:
        """Make a token; its secret is `token` in the answer, and nowhere else ever."""
        body: dict[str, Any] = {"label": label, "is_admin": admin}
        body |= {"expires_at": expires_at} if expires_at else {}
        body |= {"scopes": [_body(scope) for scope in scopes]} if scopes else {}
        return self._transport.object(await self._transport.send("POST", "/api/v1/admin/tokens", json=body))

    async def list(self) -> list[dict[str, Any]]:
        """Return all tokens, newest first."""
        answer = self._transport.object(await self._transport.send("GET", "/api/v1/admin/tokens"))
        return list(answer["tokens"])

    async def revoke(self, token_id: str) -> None:
        """End a token, and within a second every stream that it opened."""
        await self._transport.send("DELETE", f"/api/v1/admin/tokens/{token_id}")

    async def why(self, token: str, action: str, db_id: str, resource: str = "") -> dict[str, Any]:
        """Explain whether `token` may do `action`: `allowed`, and `reasons` in sentences."""
        body = {"token": token, "action": action, "db_id": db_id, "resource": resource}
        return self._transport.object(await self._transport.send("POST", "/api/v1/admin/tokens/why", json=body))


def _body(scope: Scope) -> dict[str, str]:
    return {name: value for name, value in scope._asdict().items() if value}
