"""The Python client of a node: `async with ForgeClient(url, token) as forge: ...`."""

from forge.client.client import ForgeClient
from forge.client.errors import ClientError, ForgeError, NodeUnreachable, SourceChanged, UnexpectedAnswer
from forge.client.replies import Health, Presence, UploadResult
from forge.client.retry import NO_RETRY, Retry
from forge.client.source import BytesSource, DescriptorSource, PathSource, Source

__all__ = [
    "NO_RETRY",
    "BytesSource",
    "ClientError",
    "DescriptorSource",
    "ForgeClient",
    "ForgeError",
    "Health",
    "NodeUnreachable",
    "PathSource",
    "Presence",
    "Retry",
    "Source",
    "SourceChanged",
    "UnexpectedAnswer",
    "UploadResult",
]
