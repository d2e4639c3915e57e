"""Leases on resources, kept in documents: the facts about them, and the commands."""

from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints

from schemas.document import DocumentCommand, DocumentFact
from schemas.facts import Instant
from schemas.fences import Resource

TTL_S_DEFAULT = 30
TTL_S_MAX = 3600
HISTORY_MAX = 1000
"""Of so many leases of one resource the history is kept."""

Owner = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
TokenHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
TtlSeconds = Annotated[int, Field(ge=1, le=TTL_S_MAX)]


class LeaseFact(DocumentFact):
    """Something became true of the lease of `resource` that was granted with the number `fence`."""

    resource: str
    fence: PositiveInt
    at: Instant

    @property
    def subject(self) -> str:
        """The resource."""
        return self.resource

    @property
    def touched(self) -> tuple[str, ...]:
        """The tables that changed."""
        return tuple(dict.fromkeys(("fencing_tokens", "leases", *self.tables)))


class LeaseAcquired(LeaseFact):
    """`owner` holds the resource until `expires_at`. Of the secret that proves it only the SHA-256 is known."""

    TYPE: ClassVar[str] = "forge.doc.lease.acquired"
    owner: str
    principal: str
    token_hash: str
    expires_at: Instant


class LeaseRenewed(LeaseFact):
    """The lease lasts until `expires_at`."""

    TYPE: ClassVar[str] = "forge.doc.lease.renewed"
    expires_at: Instant


class LeaseReleased(LeaseFact):
    """The holder has given the lease back; the number stays taken for ever."""

    TYPE: ClassVar[str] = "forge.doc.lease.released"


class AcquireLease(DocumentCommand):
    """Lease `resource` to `owner`, for the principal `by`, if nobody holds it. The secret itself never comes here.

    The answer is `{"resource", "owner", "fence", "expires_at"}`.
    """

    QUICK: ClassVar[bool] = True
    resource: Resource
    owner: Owner
    token_hash: TokenHash
    by: str = ""
    ttl_seconds: TtlSeconds = TTL_S_DEFAULT
    behind: NonNegativeInt = Field(0, exclude=True)
    """How many wait for it who came before: it is not free for this caller yet. No part of what was asked for."""


class RenewLease(DocumentCommand):
    """Let the lease last `ttl_seconds` from now. The answer is as that of acquiring."""

    QUICK: ClassVar[bool] = True
    resource: Resource
    owner: Owner
    token_hash: TokenHash
    ttl_seconds: TtlSeconds = TTL_S_DEFAULT


class ReleaseLease(DocumentCommand):
    """Give the lease back; doing it again is no mistake. The answer is `{"resource", "owner", "released": true}`."""

    QUICK: ClassVar[bool] = True
    resource: Resource
    owner: Owner
    token_hash: TokenHash
