"""The system tables of documents: Forge writes them, users read them and may add columns of their own."""

from collections.abc import Mapping
from typing import Final

NEEDED_COLUMNS: Final[Mapping[str, frozenset[str]]] = {
    "messages": frozenset({"id", "topic", "payload", "content_type", "producer", "dedupe_key", "created_at"}),
    "retained_messages": frozenset({"topic", "id", "payload", "content_type", "producer", "created_at"}),
    "webhook_inbox": frozenset(
        {"id", "endpoint", "received_at", "method", "query_string", "headers_json", "content_type", "payload"}
        | {"signature_valid", "delivery_id"}
    ),
    "fencing_tokens": frozenset({"resource", "owner", "token_hash", "fence", "expires_at", "updated_at"}),
    "leases": frozenset({"resource", "fence", "owner", "principal", "acquired_at", "expires_at", "released_at"}),
}
"""The columns that Forge writes, by table; users may add others and write those."""

SYSTEM_TABLES: Final = frozenset({*NEEDED_COLUMNS, "blobs"})
SYSTEM_PREFIX: Final = "blob_"
EMPTIED: Final = frozenset({"webhook_inbox"})
"""Those whose rows users who may change the schema delete when they are done with them."""


def is_system(name: str) -> bool:
    """Whether `name` is that of a system table, there or not."""
    name = name.lower()
    return name in SYSTEM_TABLES or name.startswith(SYSTEM_PREFIX)


def instead_of(doing: str, name: str) -> str:
    """Return what can be done instead of `doing` something to the system table `name`, such as `DROP TABLE`."""
    if doing.startswith("writing"):
        return "Forge writes the system tables; SQL writes the columns that users have added, with UPDATE."
    if not doing.startswith("DROP"):
        return "System tables have this name; choose another one."
    if name.lower() in EMPTIED:
        return f"System tables stay. `DELETE FROM {name.lower()}` empties this one, with query.admin."
    return "System tables stay, as every document has them."
