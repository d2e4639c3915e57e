"""The writer lease of a prefix: the object that says who may write there, and the fact that somebody took it."""

from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from schemas.facts import Command, Fact

SCHEMA: Literal["forge.vector_writer_lease.v1"] = "forge.vector_writer_lease.v1"
DURATION_S_MAX = 3600
"""A record that says more is not waited for longer."""
WRITER = "writer"
"""The resource of the lease that all of a prefix hangs on."""
Mode = Literal["hard", "soft"]


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


UtcTime = Annotated[datetime, AfterValidator(_utc)]
"""A moment in UTC, as the names of fields say: another service may have stored it without a zone."""


def lease_key(resource: str = WRITER) -> str:
    """Return the key of the lease of `resource`, below the prefix."""
    return f"leases/{resource}.json"


class LeaseRecord(BaseModel):
    """Who may write. Times are those of the holder's wall clock, and only their difference counts."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    schema_: Literal["forge.vector_writer_lease.v1"] = Field(SCHEMA, alias="schema")
    resource: str
    mode: Mode
    owner_id: str = Field(description="`<host>:<pid>` of the holder")
    lease_id: str = Field(description="new whenever a process acquires it")
    issued_at_utc: UtcTime
    expires_at_utc: UtcTime
    epoch: int = Field(1, ge=1, description="rises whenever another place acquires it")
    node: str = ""
    place: str = Field("", description="machine and data directory of the holder")
    renewals: int = Field(0, ge=0, description="makes each version of the object another one")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read what is stored; raise `ValueError`."""
        return cls.model_validate_json(data)

    def encode(self) -> bytes:
        """Return what is stored."""
        return self.model_dump_json(by_alias=True).encode()

    @property
    def duration_s(self) -> float:
        """How long it lasts from when it was issued; 0 if it was given back."""
        return min(DURATION_S_MAX, max(0.0, (self.expires_at_utc - self.issued_at_utc).total_seconds()))


class SavedLease(BaseModel):
    """What a data directory remembers of its lease, so that a process that starts there again goes on at once.

    `trying` is the id of an acquisition that may have been stored; `store` names where, and `mode` what that store can.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    lease_id: str = ""
    trying: str = ""
    epoch: int = 0
    mode: Mode | None = None
    store: str = ""


class WriterTaken(Fact):
    """From now on `node`, at `place`, writes here, with `epoch` in its positions."""

    TYPE: ClassVar[str] = "forge.control.writer.taken"
    epoch: int
    node: str
    lease_id: str
    place: str

    @property
    def subject(self) -> str:
        """The node."""
        return self.node


class TakeWriter(Command):
    """Remember who writes from now on; told by the node itself, as the first thing in its epoch."""

    epoch: int = Field(ge=1)
    node: str
    lease_id: str
    place: str
