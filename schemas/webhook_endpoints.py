"""How a document wants the webhooks of one endpoint: facts and commands of the control plane, and the HTTP bodies."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from schemas.facts import Binary, Command, Fact
from schemas.ids import DbId
from schemas.webhooks import Endpoint

SECRETS_MAX = 4
SECRET_LENGTH_MAX = 512
SEALED_BYTES_MAX = 4096
NO_PROVIDER = "none"

Policy = Literal["record", "reject"]
ProviderName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")]
Secret = Annotated[str, StringConstraints(min_length=1, max_length=SECRET_LENGTH_MAX)]
Sealed = Annotated[tuple[Annotated[Binary, Field(max_length=SEALED_BYTES_MAX)], ...], Field(max_length=SECRETS_MAX)]


class EndpointFact(Fact):
    """Something became true of one endpoint of the document `db_id`."""

    db_id: DbId
    endpoint: str

    @property
    def subject(self) -> str:
        """The document."""
        return self.db_id


class WebhookEndpointSet(EndpointFact):
    """Webhooks of the endpoint are checked as those of `provider`; `secrets` are encrypted to a key of the node.

    `policy` says what becomes of one whose signature is wrong; with `dedupe` a delivery is kept once.
    """

    TYPE: ClassVar[str] = "forge.control.webhook.set"
    provider: str
    policy: str
    dedupe: bool = False
    secrets: tuple[Binary, ...] = ()


class WebhookEndpointRemoved(EndpointFact):
    """Webhooks of the endpoint are kept as they come."""

    TYPE: ClassVar[str] = "forge.control.webhook.removed"


class SetWebhookEndpoint(Command):
    """Set how webhooks of an endpoint are checked, for `by`. Without `secrets` (None) those that are there stay.

    `stands_for` is equal for equal secrets, which their encryption is not: by it a repeated request is recognised.
    """

    QUICK: ClassVar[bool] = True
    db_id: DbId
    endpoint: Endpoint
    provider: ProviderName = NO_PROVIDER
    policy: Policy = "record"
    dedupe: bool = False
    secrets: Annotated[Sealed | None, Field(exclude=True)] = None
    stands_for: str = ""
    by: str


class RemoveWebhookEndpoint(Command):
    """Forget how webhooks of an endpoint are checked, for `by`."""

    QUICK: ClassVar[bool] = True
    db_id: DbId
    endpoint: Endpoint
    by: str


class EndpointRequest(BaseModel):
    """How webhooks of an endpoint are checked. Without `secrets` those that are there stay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: ProviderName = NO_PROVIDER
    secrets: Annotated[tuple[Secret, ...], Field(max_length=SECRETS_MAX)] | None = None
    policy: Policy = "record"
    dedupe: bool = False


class EndpointView(BaseModel):
    """The settings of an endpoint; of its secrets only how many there are."""

    endpoint: str
    provider: str
    policy: str
    dedupe: bool
    secrets: int
    set_at: str
    set_by: str


class EndpointsReply(BaseModel):
    """All endpoints of a document that have settings."""

    endpoints: Sequence[EndpointView]


class WebhookReply(BaseModel):
    """What became of a webhook: `stored` is false if its delivery was there already, under `id`."""

    db_id: str
    endpoint: str
    stored: bool
    received_at: str
    size_bytes: int
    id: int
