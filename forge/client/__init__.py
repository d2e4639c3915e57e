"""The Python client of a node: `async with ForgeClient(url, token) as forge: ...`."""

from forge.client.client import ForgeClient
from forge.client.document import Document
from forge.client.document_replies import Pushed, Result, Watched
from forge.client.errors import ClientError, ForgeError, NodeUnreachable, SourceChanged, UnexpectedAnswer
from forge.client.held_lease import HeldLease, LeaseLost
from forge.client.leases import Leases
from forge.client.message_replies import Lag, Message, Published, Retention
from forge.client.replies import Health, Presence, UploadResult
from forge.client.retry import NO_RETRY, Retry
from forge.client.source import BytesSource, DescriptorSource, PathSource, Source
from schemas.scopes import Scope

__all__ = [
    "NO_RETRY",
    "BytesSource",
    "ClientError",
    "DescriptorSource",
    "Document",
    "ForgeClient",
    "ForgeError",
    "Health",
    "HeldLease",
    "Lag",
    "LeaseLost",
    "Leases",
    "Message",
    "NodeUnreachable",
    "PathSource",
    "Presence",
    "Published",
    "Pushed",
    "Result",
    "Retention",
    "Retry",
    "Scope",
    "Source",
    "SourceChanged",
    "UnexpectedAnswer",
    "UploadResult",
    "Watched",
]
