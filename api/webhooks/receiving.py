"""The route that webhooks come to: read whole, checked, kept; answered once they are durable."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import structlog
from prometheus_client import Counter
from pydantic import TypeAdapter, ValidationError

from api.fences import fences
from api.inputs import IF_FENCE, KEY
from api.positions import POSITION_HEADER, command_id
from api.routes import Reply, Request, Route
from api.webhooks.budget import Budget
from api.webhooks.capture import content_type, kept_headers, kept_query
from api.webhooks.signatures import PROVIDERS, Delivery, Provider, Signature, Verdict
from api.webhooks.vault import Locked, Vault
from projectors.control.endpoints import EndpointRow, WebhookEndpoints
from projectors.control.registry import Registry
from projectors.document.domain import document_partition
from projectors.outcome import Answer
from projectors.partitions import Partitions
from schemas.instants import now as wall_clock
from schemas.instants import parse_instant
from schemas.problems import (
    BODY_TOO_LARGE,
    INVALID_PARAMETER,
    NOT_FOUND,
    NOT_STORED,
    SIGNATURE,
    UNAVAILABLE,
    UNPROCESSABLE,
    Refusal,
)
from schemas.webhook_endpoints import NO_PROVIDER, WebhookReply
from schemas.webhooks import ENDPOINT_LENGTH_MAX, Endpoint, ReceiveWebhook

INGEST = "webhook.ingest"
CHALLENGE = {"www-authenticate": 'Signature realm="forge"'}
CHECKED_HERE_BYTES_MAX = 64 << 10  # to hash more takes longer than the way to a thread and back
OPENED_MAX = 1024
_PASSED_ON = frozenset({BODY_TOO_LARGE.uri, UNPROCESSABLE.uri})
_ENDPOINT: TypeAdapter[str] = TypeAdapter(Endpoint)
_NO_SETTINGS = EndpointRow("", NO_PROVIDER, "record", False, (), "", "")

WEBHOOKS = Counter("forge_webhooks", "Webhooks that came, by what became of them.", ["outcome"])
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WebhooksApi:
    """The handler, with what it needs; `providers` are the checks by name, `clock` returns the present moment."""

    registry: Registry
    partitions: Partitions
    endpoints: WebhookEndpoints
    vault: Vault
    bytes_max: int
    ack_timeout_s: float
    providers: Mapping[str, Provider] = field(default_factory=lambda: PROVIDERS)
    clock: Callable[[], str] = wall_clock
    budget: Budget = field(default_factory=Budget)
    _opened: Callable[[bytes], str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_opened", lru_cache(OPENED_MAX)(self.vault.open))

    def routes(self) -> Sequence[Route]:
        """Return the route table."""
        return tuple(
            Route(
                method,
                "/api/v1/db/{db_id}/webhooks/{endpoint:path}",
                INGEST,
                self.receive,
                resource="{endpoint}",
                streaming=True,
                body_bytes_max=self.bytes_max,
                url_token=True,
                inputs=(IF_FENCE, KEY),
                replies={201: WebhookReply, 200: WebhookReply},
                summary="Keep a webhook; 200 if its delivery is there already and the endpoint asks for each once",
            )
            for method in ("POST", "PUT")
        )

    async def receive(self, request: Request[None]) -> Reply:
        """Keep a webhook."""
        endpoint = read_endpoint(request)
        self.registry.require(request.db_id, for_writing=True)
        with self.budget.hold() as hold:
            parts = list[bytes]()
            async for part in request.stream():
                hold.take(len(part))
                parts.append(part)
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            self.registry.require(request.db_id, for_writing=True)  # again: bodies may take long to come
            settings = self.endpoints.find(request.db_id, endpoint) or _NO_SETTINGS
            try:
                command = await self._command(request, endpoint, settings, body)
                answer = await self._store(request, command)
            except Refusal as refusal:
                WEBHOOKS.labels("rejected" if refusal.problem.type == SIGNATURE.uri else "not stored").inc()
                raise
        stored = not answer.value["duplicate"]
        WEBHOOKS.labels("stored" if stored else "duplicate").inc()
        reply = WebhookReply(
            db_id=request.db_id,
            endpoint=endpoint,
            stored=stored,
            received_at=answer.value["received_at"],
            size_bytes=len(body),
            id=answer.value["id"],
        )
        return Reply(201 if stored else 200, reply, {POSITION_HEADER: str(answer.position)})

    async def _command(
        self, request: Request[None], endpoint: str, settings: EndpointRow, body: bytes
    ) -> ReceiveWebhook:
        """Check a webhook; return what keeps it, or refuse it (401)."""
        provider = self.providers.get(settings.provider)
        if provider is None:
            raise Refusal(UNAVAILABLE.problem(f"this node cannot check webhooks of {settings.provider}"))
        delivery = Delivery(request.headers, body, self._secrets(settings), parse_instant(self.clock()))
        if len(body) > CHECKED_HERE_BYTES_MAX:
            verdict = await asyncio.to_thread(_checked, provider, delivery)
        else:
            verdict = _checked(provider, delivery)
        signature = verdict.signature
        if signature is Signature.REJECT or (settings.policy == "reject" and signature is not Signature.VALID):
            raise Refusal(SIGNATURE.problem(verdict.why or "nobody can tell whose it is"), CHALLENGE)
        return ReceiveWebhook(
            endpoint=endpoint,
            method=request.method,
            query_string=kept_query(request.target.partition("?")[2]),
            headers_json=kept_headers(request.headers),
            content_type=content_type(request.headers),
            payload=body,
            signature_valid={Signature.VALID: True, Signature.INVALID: False}.get(signature),
            delivery_id=provider.delivery_id(delivery),
            dedupe=settings.dedupe,
            fences=fences(request),
        )

    def _secrets(self, settings: EndpointRow) -> tuple[str, ...]:
        try:
            return tuple([self._opened(sealed) for sealed in settings.secrets])
        except Locked as error:
            fix = "Bring back the node.key of the data directory where they were set, or set them again."
            log.warning("secrets cannot be read", endpoint=settings.endpoint, why=str(error))  # says where the key lies
            why = f"the secrets of {settings.endpoint} cannot be read on this node"
            raise Refusal(UNAVAILABLE.problem(why, fix=fix)) from error

    async def _store(self, request: Request[Any], command: ReceiveWebhook) -> Answer:
        """Keep it. What a trigger or constraint of the user keeps out is our failure to the sender, who tries again."""
        repeated_as = command_id(request)
        try:
            return await self.partitions.submit(
                document_partition(request.db_id),
                command,
                principal=request.caller.name,
                command_id=repeated_as,
                timeout_s=self.ack_timeout_s,
            )
        except Refusal as refusal:
            problem = refusal.problem
            if problem.status in (412, 503) or problem.type in _PASSED_ON:
                raise
            log.warning("webhook not stored", db_id=request.db_id, endpoint=command.endpoint, why=problem.detail)
            raise Refusal(NOT_STORED.problem(problem.detail)) from refusal


def _checked(provider: Provider, delivery: Delivery) -> Verdict:
    """Return what a check says; one that breaks lets nothing in."""
    try:
        return provider.check(delivery)
    except Exception:
        log.exception("the check of a signature failed")
        return Verdict(Signature.REJECT, "the check failed; the node's log has the cause")


def read_endpoint(request: Request[Any]) -> str:
    """Return the endpoint that a path names; refuse what is none (404 if it is empty, 400)."""
    endpoint = request.params["endpoint"]
    if not endpoint:
        raise Refusal(NOT_FOUND.problem("an endpoint has a name: .../webhooks/<name>"))
    try:
        return _ENDPOINT.validate_python(endpoint)
    except ValidationError:
        why = f"an endpoint has 1 to {ENDPOINT_LENGTH_MAX} characters, no control characters, and no / at its beginning"
        raise Refusal(INVALID_PARAMETER.problem(why, field="endpoint")) from None
