"""What every fact and every command is built from; the facts of a domain live in the domain's own module."""

import base64
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, PlainSerializer, StringConstraints

QUICK_BYTES_MAX = 32 << 10
"""A command with more than that to store is not quick."""

Binary = Annotated[
    bytes,
    PlainSerializer(lambda raw: base64.b64encode(raw).decode(), return_type=str, when_used="json"),
]
"""Bytes in memory, base64 in JSON."""

Instant = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
"""A moment, RFC 3339, UTC, always microseconds: text order is time order."""


class Fact(BaseModel, ABC):
    """Something that became true. Frozen; unknown fields of a stored fact are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", val_json_bytes="base64")
    TYPE: ClassVar[str]

    @property
    @abstractmethod
    def subject(self) -> str:
        """What the fact is about, within its partition (CloudEvents `subject`)."""

    @property
    def payloads(self) -> tuple[str, ...]:
        """Content hashes of the payloads that the fact refers to: they are archived before it."""
        return ()


class Command(BaseModel):
    """A request to change something. It is decided against a projection.

    `QUICK` says that deciding it takes microseconds whatever the data: a few such are decided on the event loop,
    which spares a lone caller four changes of thread.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", val_json_bytes="base64")
    QUICK: ClassVar[bool] = False

    @property
    def quick(self) -> bool:
        """Whether this one is: a class that is quick may have large ones that are not."""
        return self.QUICK


def facts_by_type(*facts: type[Fact]) -> dict[str, type[Fact]]:
    """Return the facts of a domain by their CloudEvents type."""
    return {fact.TYPE: fact for fact in facts}
