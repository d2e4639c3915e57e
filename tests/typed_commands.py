"""Commands of messages, webhooks and leases as tests send them."""

from hashlib import sha256
from random import Random
from typing import Any

from projectors.document.system_tables import MIGRATIONS
from schemas.facts import Command
from schemas.leases import AcquireLease, ReleaseLease, RenewLease
from schemas.messages import NewMessage, PruneMessages, PublishMessages
from schemas.webhooks import ReceiveWebhook
from tests.document_history import Document

__all__ = ["MIGRATIONS", "acquire", "answer", "publish", "random_command", "receive", "release", "renew"]


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


def random_command(chosen: Random) -> Command:
    """Return a command of any kind, about few topics, endpoints and resources, so that they meet."""
    text = chosen.choice((b"", b"{}", b"hello", b"\xff", b"a\0b", bytes(40)))
    said: dict[str, Any] = {"content_type": chosen.choice(("application/json", "text/plain", "image/png"))}
    match chosen.randrange(7):
        case 0 | 1:
            key = chosen.choice((None, None, "k", "l"))
            messages = [
                NewMessage(
                    topic=chosen.choice("ab"), payload=text, dedupe_key=key, retain=chosen.random() < 0.3, **said
                )
                for _ in range(chosen.choice((1, 1, 2, 5)))
            ]
            return PublishMessages(messages=tuple(messages))
        case 2:
            bounds = {chosen.choice(("max_count", "max_bytes", "max_age_s")): chosen.choice((1, 3, 20))}
            return PruneMessages(**bounds)
        case 3:
            more = {"delivery_id": chosen.choice((None, "d", "e")), "dedupe": chosen.random() < 0.5}
            return receive(chosen.choice(("x", "x/y")), text, **said, **more)
        case 4:
            return acquire(chosen.choice("rs"), chosen.choice("ab"), ttl_seconds=chosen.choice((1, 60)))
        case 5:
            return renew(chosen.choice("rs"), chosen.choice("ab"))
    return release(chosen.choice("rs"), chosen.choice("ab"))
