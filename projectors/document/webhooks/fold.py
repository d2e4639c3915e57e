"""The fold of webhooks: rows of `webhook_inbox`."""

from projectors.document.rows import Rows, stored
from schemas.webhooks import WebhookReceived

_COLUMNS = ("id", "endpoint", "received_at", "method", "query_string", "headers_json", "content_type", "payload")
_CHECKED = ("signature_valid", "delivery_id")


def received(fact: WebhookReceived) -> list[Rows]:
    """Return what receiving does."""
    valid = None if fact.signature_valid is None else int(fact.signature_valid)
    row = (fact.id, fact.endpoint, fact.at, fact.method, fact.query_string, fact.headers_json, fact.content_type)
    values = (*row, stored(fact.payload, fact.content_type), valid, fact.delivery_id)
    return [Rows("insert", "webhook_inbox", _COLUMNS + _CHECKED, [values])]
