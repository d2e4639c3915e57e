"""The settings of webhook endpoints: how they are decided, folded and found."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, NamedTuple

import apsw
from pydantic_core import from_json, to_json

from events.envelope import Event
from projectors.control.queries import DocumentRow
from projectors.control.reading import ControlReader
from projectors.domain import Decision
from schemas.problems import INVALID_BODY, NOT_FOUND, Refusal
from schemas.webhook_endpoints import (
    NO_PROVIDER,
    RemoveWebhookEndpoint,
    SetWebhookEndpoint,
    WebhookEndpointRemoved,
    WebhookEndpointSet,
)

_COLUMNS = "endpoint, provider, policy, dedupe, secrets, set_at, set_by"


class EndpointRow(NamedTuple):
    """The settings of one endpoint, its secrets encrypted."""

    endpoint: str
    provider: str
    policy: str
    dedupe: bool
    secrets: tuple[bytes, ...]
    set_at: str
    set_by: str

    def describe(self) -> dict[str, Any]:
        """Return what is told of it."""
        return self._asdict() | {"secrets": len(self.secrets)}


class WebhookEndpoints:
    """The settings of endpoints, for whoever receives webhooks."""

    def __init__(self, reader: ControlReader) -> None:
        self._reader = reader

    def find(self, db_id: str, endpoint: str) -> EndpointRow | None:
        """Return the settings of one endpoint, None if it has none; raise `Refusal` (503) if nobody can say yet."""
        return self._reader.read(lambda db: find(db, db_id, endpoint))

    def all(self, db_id: str) -> list[EndpointRow]:
        """Return those of all endpoints of a document, by name; raise `Refusal` (503) if nobody can say yet."""
        return self._reader.read(lambda db: every(db, db_id))


def find(db: apsw.Connection, db_id: str, endpoint: str) -> EndpointRow | None:
    """Return the settings of one endpoint."""
    sql = f"SELECT {_COLUMNS} FROM webhook_endpoint WHERE db_id = ? AND endpoint = ?"
    row = db.execute(sql, (db_id, endpoint)).fetchone()
    return None if row is None else _row(row)


def every(db: apsw.Connection, db_id: str) -> list[EndpointRow]:
    """Return the settings of all endpoints of a document, by name."""
    sql = f"SELECT {_COLUMNS} FROM webhook_endpoint WHERE db_id = ? ORDER BY endpoint"
    return [_row(row) for row in db.execute(sql, (db_id,))]


def decide(
    db: apsw.Connection, document: DocumentRow, command: SetWebhookEndpoint | RemoveWebhookEndpoint, now: str
) -> Decision:
    """Decide about the settings of an endpoint."""
    if isinstance(command, SetWebhookEndpoint):
        return _set(db, document, command, now)
    return _remove(db, document, command)


def _set(db: apsw.Connection, document: DocumentRow, command: SetWebhookEndpoint, now: str) -> Decision:
    before = find(db, document.db_id, command.endpoint)
    secrets = command.secrets
    if secrets is None:  # those of another provider stay no longer: they are not what this one signs with
        secrets = before.secrets if before and before.provider == command.provider else ()
    if command.provider == NO_PROVIDER and (command.policy == "reject" or command.secrets):
        why = "without a provider nobody can tell whether a signature is right"
        raise Refusal(INVALID_BODY.problem(why, fix="Name the provider.", field="provider"))
    if command.provider != NO_PROVIDER and not secrets:
        why = f"to check what {command.provider} sends needs the secret that it signs with"
        raise Refusal(INVALID_BODY.problem(why, field="secrets"))
    if command.provider == NO_PROVIDER:
        secrets = ()
    after = EndpointRow(command.endpoint, command.provider, command.policy, command.dedupe, secrets, now, command.by)
    if before is not None and before[:5] == after[:5]:
        return Decision(answer=before.describe())
    fact = WebhookEndpointSet(
        db_id=document.db_id,
        endpoint=command.endpoint,
        provider=command.provider,
        policy=command.policy,
        dedupe=command.dedupe,
        secrets=secrets,
    )
    return Decision([fact], after.describe())


def _remove(db: apsw.Connection, document: DocumentRow, command: RemoveWebhookEndpoint) -> Decision:
    if find(db, document.db_id, command.endpoint) is None:
        raise no_settings(document.db_id, command.endpoint)
    return Decision([WebhookEndpointRemoved(db_id=document.db_id, endpoint=command.endpoint)])


def no_settings(db_id: str, endpoint: str) -> Refusal:
    """Return the refusal for an endpoint that has no settings."""
    fix = f"`GET /api/v1/db/{db_id}/webhook-endpoints` lists those that have. Others keep whatever comes, unchecked."
    return Refusal(NOT_FOUND.problem(f"the endpoint {endpoint!r} has no settings", fix=fix))


def fold(db: apsw.Connection, event: Event, fact: WebhookEndpointSet | WebhookEndpointRemoved) -> None:
    """Write or delete its row."""
    if isinstance(fact, WebhookEndpointRemoved):
        db.execute("DELETE FROM webhook_endpoint WHERE db_id = ? AND endpoint = ?", (fact.db_id, fact.endpoint))
        return
    secrets = to_json([b64encode(secret).decode() for secret in fact.secrets]).decode()
    values = (fact.db_id, fact.endpoint, fact.provider, fact.policy, fact.dedupe, secrets, event.time, event.principal)
    db.execute("INSERT OR REPLACE INTO webhook_endpoint VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def told(fact: WebhookEndpointSet | WebhookEndpointRemoved) -> Mapping[str, Any]:
    """Return what the audit says of it."""
    said: dict[str, Any] = {"endpoint": fact.endpoint}
    if isinstance(fact, WebhookEndpointSet):
        said |= {"provider": fact.provider, "policy": fact.policy, "dedupe": fact.dedupe, "secrets": len(fact.secrets)}
    return said


def _row(row: Any) -> EndpointRow:
    secrets = tuple(b64decode(secret) for secret in from_json(row[4]))
    return EndpointRow(row[0], row[1], row[2], bool(row[3]), secrets, row[5], row[6])
