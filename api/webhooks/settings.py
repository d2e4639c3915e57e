"""The routes of the settings of webhook endpoints."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from api.control_command import submit
from api.fences import check_fences
from api.inputs import IF_FENCE, KEY, MIN_POSITION
from api.positions import POSITION_HEADER, await_position, command_id
from api.routes import Reply, Request, Route
from api.webhooks.receiving import read_endpoint
from api.webhooks.signatures import PROVIDERS, Provider
from api.webhooks.vault import Locked, Vault
from projectors.control.domain import PARTITION
from projectors.control.endpoints import WebhookEndpoints, no_settings
from projectors.control.registry import Registry
from projectors.partitions import Partitions
from schemas.problems import INVALID_BODY, UNAVAILABLE, Refusal
from schemas.webhook_endpoints import (
    EndpointRequest,
    EndpointsReply,
    EndpointView,
    RemoveWebhookEndpoint,
    SetWebhookEndpoint,
)

MANAGE = "db.manage"


@dataclass(frozen=True, slots=True)
class EndpointsApi:
    """The handlers, with what they need; `providers` are those that an endpoint may be set to."""

    registry: Registry
    partitions: Partitions
    endpoints: WebhookEndpoints
    vault: Vault
    providers: Mapping[str, Provider] = field(default_factory=lambda: PROVIDERS)

    def routes(self) -> Sequence[Route]:
        """Return the route table."""
        every = "/api/v1/db/{db_id}/webhook-endpoints"
        one = f"{every}/{{endpoint:path}}"
        changing, shown = (IF_FENCE, KEY), {200: EndpointView}
        return (
            Route(
                "GET",
                every,
                MANAGE,
                self.list,
                inputs=(MIN_POSITION,),
                replies={200: EndpointsReply},
                summary="The endpoints of webhooks that have settings",
            ),
            Route("GET", one, MANAGE, self.show, inputs=(MIN_POSITION,), replies=shown, summary="The settings of one"),
            Route(
                "PUT",
                one,
                MANAGE,
                self.set,
                body=EndpointRequest,
                inputs=changing,
                replies=shown,
                summary="Set whose signatures its webhooks have, and what becomes of those that are wrong",
            ),
            Route(
                "DELETE",
                one,
                MANAGE,
                self.remove,
                inputs=changing,
                replies={204: "removed"},
                summary="Keep its webhooks as they come, unchecked",
            ),
        )

    async def list(self, request: Request[None]) -> Reply:
        """Return all."""
        self.registry.require(request.db_id)
        await await_position(request, self.partitions[PARTITION])
        found = [EndpointView(**row.describe()) for row in self.endpoints.all(request.db_id)]
        return Reply(200, EndpointsReply(endpoints=found))

    async def show(self, request: Request[None]) -> Reply:
        """Return one."""
        endpoint = read_endpoint(request)
        self.registry.require(request.db_id)
        await await_position(request, self.partitions[PARTITION])
        row = self.endpoints.find(request.db_id, endpoint)
        if row is None:
            raise no_settings(request.db_id, endpoint)
        return Reply(200, EndpointView(**row.describe()))

    async def set(self, request: Request[EndpointRequest]) -> Reply:
        """Set one. Its secrets are encrypted before they go anywhere."""
        body, endpoint = request.body, read_endpoint(request)
        self.registry.require(request.db_id, for_writing=True)
        provider = self.providers.get(body.provider)
        if provider is None:
            why = f"{body.provider} is no provider; they are {', '.join(self.providers)}"
            raise Refusal(INVALID_BODY.problem(why, field="provider"))
        for at, secret in enumerate(body.secrets or ()):
            if wrong := provider.wrong(secret):
                raise Refusal(INVALID_BODY.problem(f"a secret of {body.provider}: {wrong}", field=f"secrets.{at}"))
        secrets, stands_for = await asyncio.to_thread(self._sealed, body.secrets)
        command = SetWebhookEndpoint(
            db_id=request.db_id,
            endpoint=endpoint,
            provider=body.provider,
            policy=body.policy,
            dedupe=body.dedupe,
            secrets=secrets,
            stands_for=stands_for,
            by=request.caller.name,
        )
        await check_fences(request, self.partitions, self.registry)
        answer = await submit(self.partitions, request, command, command_id(request))
        return Reply(200, EndpointView(**answer.value), {POSITION_HEADER: str(answer.position)})

    def _sealed(self, secrets: Sequence[str] | None) -> tuple[tuple[bytes, ...] | None, str]:
        if secrets is None:
            return None, ""
        try:
            return self.vault.seal(secrets), self.vault.stands_for(secrets)
        except Locked as error:
            raise Refusal(UNAVAILABLE.problem(f"the node cannot keep secrets: {error}")) from error

    async def remove(self, request: Request[None]) -> Reply:
        """Forget the settings of one."""
        endpoint = read_endpoint(request)
        self.registry.require(request.db_id, for_writing=True)
        await check_fences(request, self.partitions, self.registry)
        command = RemoveWebhookEndpoint(db_id=request.db_id, endpoint=endpoint, by=request.caller.name)
        answer = await submit(self.partitions, request, command, command_id(request))
        return Reply(204, None, {POSITION_HEADER: str(answer.position)})
