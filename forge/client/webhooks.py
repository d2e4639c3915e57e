"""How a document wants its webhooks: the settings of endpoints. What came is in `webhook_inbox`, to be read by SQL."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ulid import ULID

from forge.client.documents import path_of
from forge.client.transport import Transport
from schemas.webhook_endpoints import NO_PROVIDER, EndpointsReply, EndpointView


class Webhooks:
    """`client.db("hooks").webhooks`."""

    def __init__(self, transport: Transport, db_id: str) -> None:
        self._transport = transport
        self._db_id = db_id

    async def set(
        self,
        endpoint: str,
        *,
        provider: str = NO_PROVIDER,
        secrets: Sequence[str] | None = None,
        policy: str = "record",
        dedupe: bool = False,
    ) -> EndpointView:
        """Check webhooks of `endpoint` as `provider` signs them; without `secrets` those that are there stay."""
        body: dict[str, Any] = {"provider": provider, "policy": policy, "dedupe": dedupe}
        body |= {} if secrets is None else {"secrets": list(secrets)}
        return self._transport.parse(EndpointView, await self._send("PUT", endpoint, body))

    async def all(self) -> Sequence[EndpointView]:
        """Return the endpoints that have settings, by name."""
        response = await self._transport.send("GET", path_of(self._db_id, "webhook-endpoints"))
        return self._transport.parse(EndpointsReply, response).endpoints

    async def remove(self, endpoint: str) -> None:
        """Keep webhooks of `endpoint` as they come, unchecked."""
        await self._send("DELETE", endpoint)

    async def _send(self, method: str, endpoint: str, body: Mapping[str, Any] | None = None) -> Any:
        path = path_of(self._db_id, "webhook-endpoints", quote(endpoint, safe="/"))
        headers = {"Idempotency-Key": str(ULID())}
        return await self._transport.send(method, path, json=body, headers=headers)
