"""The HTTP bodies of leases."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from schemas.fences import Resource
from schemas.leases import TTL_S_DEFAULT, Owner, TtlSeconds

WAIT_S_MAX = 60
TOKEN_LENGTH_MAX = 512

LeaseToken = Annotated[str, StringConstraints(min_length=1, max_length=TOKEN_LENGTH_MAX)]


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    resource: Resource
    owner: Owner


class AcquireRequest(_Asked):
    """Lease a resource for `ttl_seconds`; if somebody holds it, wait up to `wait_seconds` for it to be free."""

    ttl_seconds: TtlSeconds = TTL_S_DEFAULT
    wait_seconds: Annotated[float, Field(ge=0, le=WAIT_S_MAX)] = 0


class RenewRequest(_Asked):
    """Let a lease last `ttl_seconds` from now; `token` proves that it is one's own."""

    token: LeaseToken
    ttl_seconds: TtlSeconds = TTL_S_DEFAULT


class ReleaseRequest(_Asked):
    """Give a lease back; `token` proves that it is one's own."""

    token: LeaseToken


class AcquireReply(BaseModel):
    """A lease that was granted. `token` proves it and is shown this once; `fence` goes with every change."""

    resource: str
    owner: str
    fence: int
    token: str
    expires_at: str


class RenewReply(BaseModel):
    """A lease that lasts longer now, under the same fence."""

    resource: str
    owner: str
    fence: int
    expires_at: str
    renewed: bool


class ReleaseReply(BaseModel):
    """A lease that is over."""

    resource: str
    owner: str
    released: bool


class LeaseView(BaseModel):
    """The newest lease of a resource; `held` says whether it is not over yet."""

    resource: str
    owner: str
    fence: int
    held: bool
    expires_at: str
    updated_at: str


class LeasesReply(BaseModel):
    """A page of resources that were ever leased; `next` is the `after` of the following one."""

    leases: Sequence[LeaseView]
    next: str | None


class GrantView(BaseModel):
    """One lease of a resource. `released_at` is null if it is held, or ran out."""

    fence: int
    owner: str
    principal: str
    acquired_at: str
    expires_at: str
    released_at: str | None


class LeaseReply(LeaseView):
    """One resource, with a page of its leases, newest first; `next` is the `before` of the following one."""

    history: Sequence[GrantView]
    next: int | None
