"""What goes to and fro when changes of a copy are pushed: the body, the answer, and the rows that do not fit."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from schemas.document import Policy, PositionText
from schemas.facts import Binary
from schemas.problems import Problem
from schemas.values import SqlValue, encode

CONFLICTS_TOLD_MAX = 100
VALUE_SHOWN_MAX = 256


class PushBody(BaseModel):
    """Changes that were made in a copy of a document."""

    model_config = ConfigDict(extra="forbid", val_json_bytes="base64")

    base: PositionText = Field(description="the position that the copy stood at before it was changed")
    changeset: Binary = Field(description="a SQLite changeset, in base64")
    policy: Policy = Field("fail", description="who wins where both sides changed a row")
    rebase: bool = Field(False, description="answer with what leads the copy from its changes to the new position")


class PushReply(BaseModel):
    """What became of pushed changes; the position they are in is the header `Forge-Position`."""

    applied: NonNegativeInt = Field(description="changes that were taken as they are")
    omitted: NonNegativeInt = Field(description="changes that were left out, because what is here wins")
    replaced: NonNegativeInt = Field(description="changes that were taken over what is here")
    rebased: Binary | None = Field(None, description="a changeset from the changed copy to the new position, in base64")
    rebase_refused: str | None = Field(None, description="why there is no `rebased` though it was asked for")


class ConflictingRow(BaseModel):
    """One row that both sides changed, or that would break a rule of its table."""

    model_config = ConfigDict(frozen=True)

    table: str
    kind: Literal["changed", "gone", "exists", "constraint", "reference"]
    operation: Literal["insert", "update", "delete"] | None = Field(None, description="what the client did")
    key: dict[str, Any]
    yours: dict[str, Any] | None = Field(None, description="the client's new values; null: removed")
    theirs: dict[str, Any] | None = Field(None, description="the row that is here; null: there is none, or not known")
    parent: str | None = Field(None, description="the table that lacks the row referred to")


class ConflictsProblem(Problem):
    """A problem that lists the rows it is about, up to a bound."""

    conflict_count: NonNegativeInt
    conflicts: tuple[ConflictingRow, ...]


def shown(value: SqlValue) -> Any:
    """Return a value as JSON has it; a long one by its size alone."""
    if isinstance(value, str | bytes) and len(value) > VALUE_SHOWN_MAX:
        return {"$size": len(value)}
    return encode(value)
