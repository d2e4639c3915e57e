"""All facts and commands of the document domain, by name."""

from schemas.document import (
    ChangesPushed,
    ContentCopied,
    CopyContent,
    PrepareSystem,
    PushChanges,
    RunSql,
    SqlExecuted,
    SystemMigrated,
)
from schemas.facts import Command, facts_by_type
from schemas.leases import AcquireLease, LeaseAcquired, LeaseReleased, LeaseRenewed, ReleaseLease, RenewLease
from schemas.messages import MessagesPruned, MessagesPublished, PruneMessages, PublishMessages
from schemas.webhooks import ReceiveWebhook, WebhookReceived

FACTS = facts_by_type(
    SqlExecuted,
    ChangesPushed,
    ContentCopied,
    SystemMigrated,
    MessagesPublished,
    MessagesPruned,
    WebhookReceived,
    LeaseAcquired,
    LeaseRenewed,
    LeaseReleased,
)
COMMANDS: dict[str, type[Command]] = {
    kind.__name__: kind
    for kind in (
        RunSql,
        PushChanges,
        CopyContent,
        PrepareSystem,
        PublishMessages,
        PruneMessages,
        ReceiveWebhook,
        AcquireLease,
        RenewLease,
        ReleaseLease,
    )
}
