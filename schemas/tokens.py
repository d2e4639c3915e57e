"""HTTP bodies about tokens and the audit."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from schemas.control import Label, Scopes
from schemas.ids import DbId
from schemas.scopes import ANY_DB, RESOURCE_LENGTH_MAX, Scope

YEAR_MIN, YEAR_MAX = 2000, 9000


def _within_reason(moment: datetime) -> datetime:
    if not YEAR_MIN <= moment.year <= YEAR_MAX:
        raise ValueError(f"a year from {YEAR_MIN} to {YEAR_MAX}")
    return moment


class MintRequest(BaseModel):
    """What a new token is called, may do (`is_admin`: everything), until when, and whether a `url` may hold it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: Label
    is_admin: Annotated[bool, Field(strict=True)] = False
    expires_at: Annotated[AwareDatetime, AfterValidator(_within_reason)] | None = None
    scopes: Scopes = ()
    url: Annotated[bool, Field(strict=True)] = False


class TokenView(BaseModel):
    """One token; its secret is not known here. `last_used_at` is exact to the minute."""

    id: str
    prefix: str
    label: str
    is_admin: bool
    scopes: tuple[Scope, ...]
    url: bool
    created_by: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None


class MintedToken(TokenView):
    """A new token with its secret, which is shown this once."""

    token: str


class TokensReply(BaseModel):
    """A page of tokens, newest first; `next` is the `before` of the following page."""

    tokens: list[TokenView]
    next: int | None


class WhyRequest(BaseModel):
    """A question: may `token` do `action` on `resource` of `db_id` (default: on all documents)?"""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: Annotated[str, Field(min_length=1, max_length=512)]
    action: str
    db_id: DbId = ANY_DB
    resource: Annotated[str, Field(max_length=RESOURCE_LENGTH_MAX)] = ""


class WhyReply(BaseModel):
    """The answer, and what it rests on, in sentences."""

    allowed: bool
    reasons: list[str]


class AuditView(BaseModel):
    """One change: `principal` did `action` to `subject`."""

    id: int
    at: str
    principal: str
    action: str
    subject: str
    detail: dict[str, Any]


class AuditReply(BaseModel):
    """A page of changes, newest first; `next` is the `before` of the following page."""

    entries: list[AuditView]
    next: int | None
