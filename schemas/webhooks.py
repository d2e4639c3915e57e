"""Webhooks that documents receive: the fact, and the command."""

from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt, StringConstraints

from schemas.document import DocumentCommand, DocumentFact
from schemas.facts import QUICK_BYTES_MAX, Binary, Instant

ENDPOINT_LENGTH_MAX = 255

Endpoint = Annotated[
    str,
    StringConstraints(min_length=1, max_length=ENDPOINT_LENGTH_MAX, pattern=r"^[^/\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"),
]


class WebhookReceived(DocumentFact):
    """A request came to an endpoint of the document, and is kept under `id`.

    `headers_json` is an object of arrays, names in lower case, with credentials left out. `signature_valid` is None
    if nobody checked.
    """

    TYPE: ClassVar[str] = "forge.doc.webhook.received"
    id: PositiveInt
    at: Instant
    endpoint: str
    method: str
    query_string: str
    headers_json: str
    content_type: str | None = None
    payload: Binary
    signature_valid: bool | None = None
    delivery_id: str | None = None

    @property
    def subject(self) -> str:
        """The endpoint."""
        return self.endpoint

    @property
    def touched(self) -> tuple[str, ...]:
        """The tables that changed."""
        return tuple(dict.fromkeys(("webhook_inbox", *self.tables)))


class ReceiveWebhook(DocumentCommand):
    """Keep a request to an endpoint; with `dedupe`, unless its delivery is there already.

    The answer is `{"id", "received_at", "duplicate"}`. A sender who sends one again with the same Idempotency-Key may
    date and sign it anew: what is excluded does not make it another one.
    """

    QUICK: ClassVar[bool] = True
    endpoint: Endpoint
    method: str
    query_string: Annotated[str, Field(exclude=True)] = ""
    headers_json: Annotated[str, Field(exclude=True)] = "{}"
    content_type: str | None = None
    payload: Binary
    signature_valid: Annotated[bool | None, Field(exclude=True)] = None
    delivery_id: Annotated[str, Field(max_length=255)] | None = None
    dedupe: bool = False

    @property
    def quick(self) -> bool:
        """Whether it is small."""
        return len(self.payload) <= QUICK_BYTES_MAX
