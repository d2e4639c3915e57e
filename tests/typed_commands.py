"""Commands of messages, webhooks and leases as tests send them."""

from hashlib import sha256
from typing import Any

from projectors.document.system_tables import MIGRATIONS
from schemas.facts import Command
from schemas.leases import AcquireLease, ReleaseLease, RenewLease
from schemas.messages import NewMessage, PublishMessages
from schemas.webhooks import ReceiveWebhook
from tests.document_history import Document

__all__ = ["MIGRATIONS", "acquire", "answer", "publish", "receive", "release", "renew"]


def answer(document: Document, command: Command, command_id: str | None = None) -> Any:
    """Have one command decided; return its answer, or raise its refusal."""
    (outcome,) = document.decide(command, command_id=command_id)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome[1]


def publish(topic: str = "a/b", payload: bytes = b'{"n":1}', **more: Any) -> PublishMessages:
    """Return the command that publishes one message."""
    return PublishMessages(messages=(NewMessage(topic=topic, payload=payload, **more),))


def receive(endpoint: str = "github/push", payload: bytes = b"{}", **more: Any) -> ReceiveWebhook:
    """Return the command that keeps one webhook."""
    return ReceiveWebhook(endpoint=endpoint, method="POST", payload=payload, **more)


def acquire(resource: str = "jobs/nightly", owner: str = "ada", token: str = "secret", **more: Any) -> AcquireLease:
    """Return the command that asks for a lease."""
    return AcquireLease(resource=resource, owner=owner, token_hash=_hash(token), **more)


def renew(resource: str = "jobs/nightly", owner: str = "ada", token: str = "secret", **more: Any) -> RenewLease:
    """Return the command that renews a lease."""
    return RenewLease(resource=resource, owner=owner, token_hash=_hash(token), **more)


def release(resource: str = "jobs/nightly", owner: str = "ada", token: str = "secret") -> ReleaseLease:
    """Return the command that gives a lease back."""
    return ReleaseLease(resource=resource, owner=owner, token_hash=_hash(token))


def _hash(token: str) -> str:
    return sha256(token.encode()).hexdigest()
