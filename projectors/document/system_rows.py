"""Which rows of the system tables a fact changes."""

from collections.abc import Sequence

from projectors.document.leases import fold as leases
from projectors.document.messages import fold as messages
from projectors.document.rows import Rows
from projectors.document.webhooks import fold as webhooks
from schemas.document import DocumentFact
from schemas.leases import LeaseAcquired, LeaseReleased, LeaseRenewed
from schemas.messages import MessagesPruned, MessagesPublished
from schemas.webhooks import WebhookReceived


def rows_of(fact: DocumentFact) -> Sequence[Rows]:
    """Return what a fact does to system tables; nothing if it says all in its steps."""
    match fact:
        case MessagesPublished():
            return messages.published(fact)
        case MessagesPruned():
            return messages.pruned(fact)
        case WebhookReceived():
            return webhooks.received(fact)
        case LeaseAcquired():
            return leases.acquired(fact)
        case LeaseRenewed():
            return leases.renewed(fact)
        case LeaseReleased():
            return leases.released(fact)
    return ()
