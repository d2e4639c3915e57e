"""How a webhook is received: kept once, with a number of its own."""

import apsw

from projectors.document.writing import write
from projectors.domain import Decision
from schemas.webhooks import ReceiveWebhook, WebhookReceived


def receive(db: apsw.Connection, command: ReceiveWebhook, now: str) -> Decision:
    """Keep a request, unless it is a delivery that is there already and that is asked about."""
    if command.dedupe and command.delivery_id is not None:
        # One that was not signed by its sender is nobody's delivery: else whoever guesses an id keeps the real one out.
        query = (
            "SELECT id, received_at FROM main.webhook_inbox "
            "WHERE endpoint = ? AND delivery_id = ? AND signature_valid IS NOT 0 LIMIT 1"
        )
        row = db.execute(query, (command.endpoint, command.delivery_id)).fetchone()
        if row is not None:
            return Decision(answer={"id": row[0], "received_at": row[1], "duplicate": True})
    last = int(str(db.execute("SELECT last_webhook_id FROM _forge_document").get))
    received = WebhookReceived(
        id=last + 1,
        at=now,
        endpoint=command.endpoint,
        method=command.method,
        query_string=command.query_string,
        headers_json=command.headers_json,
        content_type=command.content_type,
        payload=command.payload,
        signature_valid=command.signature_valid,
        delivery_id=command.delivery_id,
    )
    answer = {"id": received.id, "received_at": now, "duplicate": False}
    return Decision([write(db, received)], answer, applied=True)
