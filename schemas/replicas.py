"""Replicas of documents as a node knows them: what they report, what is decided about them, and the HTTP bodies."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from schemas.facts import Command, Fact
from schemas.ids import DbId, Position

REPLICAS_MAX = 10_000
REPLICAS_OF_DOCUMENT_MAX = 64
REASON_LENGTH_MAX = 400
REPORTS_MAX = 1000  # in one fact; more are told by the next one
FORGOTTEN_AFTER_S = 30 * 86_400.0  # of which nothing was heard

REPLICA_ID_PATTERN = r"^[a-z0-9][a-z0-9.-]{0,79}$"
ReplicaId = Annotated[str, StringConstraints(pattern=REPLICA_ID_PATTERN)]
"""Who follows: the same as long as the replica exists, whatever copies it takes."""

CopyId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""Which copy it follows with: another one after each snapshot that it took."""

ReplicaKind = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]

ReplicaState = Literal[
    "bootstrapping", "catching_up", "live", "lagging", "stalled", "needs_reseed", "evicted", "fenced"
]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("only printable characters, in one line")
    return text


Reason = Annotated[str, StringConstraints(max_length=REASON_LENGTH_MAX), AfterValidator(_printable)]


def _position(text: str) -> str:
    return str(Position.parse(text))


class ReplicaReport(BaseModel):
    """Where a replica stands: all up to `position` is on its disk. While it bootstraps, where its snapshot stands."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    db_id: DbId
    replica_id: ReplicaId
    copy_id: CopyId
    kind: ReplicaKind
    position: Annotated[str, AfterValidator(_position)]
    bootstrapping: bool = False
    by: str = ""

    @property
    def stands_at(self) -> Position:
        """The position as a value."""
        return Position.parse(self.position)


class ReplicasReported(Fact):
    """These replicas reported a short while ago; one that moved back since an earlier fact did not."""

    TYPE: ClassVar[str] = "forge.control.replica.reported"
    reports: tuple[ReplicaReport, ...]

    @property
    def subject(self) -> str:
        """The document of the first one."""
        return self.reports[0].db_id if self.reports else ""


class ReplicaFact(Fact):
    """Something was decided about one copy that a replica of `db_id` follows with."""

    db_id: DbId
    replica_id: ReplicaId
    copy_id: CopyId
    reason: str = ""

    @property
    def subject(self) -> str:
        """The document."""
        return self.db_id


class ReplicaEvicted(ReplicaFact):
    """The log is kept no longer for this copy, which is followed with no more: the replica has to take another one."""

    TYPE: ClassVar[str] = "forge.control.replica.evicted"


class ReplicaRecalled(ReplicaFact):
    """The replica shall take a new copy in place of this one."""

    TYPE: ClassVar[str] = "forge.control.replica.recalled"


class NoteReplicas(Command):
    """Remember what replicas reported. What is out of date, or of a copy that was given up, is passed over."""

    reports: Annotated[tuple[ReplicaReport, ...], Field(max_length=REPORTS_MAX)]


class EvictReplica(Command):
    """Keep the log no longer for a replica, until it has taken a new copy."""

    QUICK: ClassVar[bool] = True
    db_id: DbId
    replica_id: ReplicaId
    reason: Reason = ""


class RecallReplica(Command):
    """Have a replica take a new copy."""

    QUICK: ClassVar[bool] = True
    db_id: DbId
    replica_id: ReplicaId
    reason: Reason = ""


class ReplicaReportBody(BaseModel):
    """What a replica that does not follow by `/wal` sends of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    copy_id: CopyId = Field(description="16 hex digits that it makes up anew with each snapshot")
    kind: ReplicaKind = Field(description="what it is: `file`, `program`, or a word of its own")
    position: Annotated[str, AfterValidator(_position)] = Field(description="all up to there is on its disk")
    hash: str = Field("", max_length=64, description="hash of the record there; 409 if it is another here")


class ReasonBody(BaseModel):
    """Why something is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: Reason = Field("", description="for the audit, and for whoever runs the replica: one line")


class ReplicaView(BaseModel):
    """One replica; null is what could not be found out."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    db_id: str
    replica_id: str
    copy_id: str
    kind: str
    state: ReplicaState
    position: str = Field(description="all up to there is on its disk, as it said last")
    head: str | None = Field(description="where the document stands")
    lag_records: int | None
    lag_bytes: int | None = Field(description="estimated beyond what one read of the log tells")
    lag_s: float | None = Field(description="age of the first record that it lacks")
    last_seen: str = Field(description="when it was heard last, to the heartbeat")
    holds_log: bool = Field(description="whether the log is kept for it")
    reason: str = Field(description="why it is evicted, fenced or has to take a new copy")
    reported_by: str


class ReplicasReply(BaseModel):
    """Replicas, by document and name."""

    model_config = ConfigDict(frozen=True)

    replicas: list[ReplicaView]
    next: str | None = Field(description="ask for `after` this for the next page; null: this is the last one")
