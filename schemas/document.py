"""The document domain: its facts, which carry effects rather than statements, and its commands."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from schemas.facts import Binary, Command, Fact
from schemas.fences import Fences
from schemas.ids import DbId

SQL_KEPT_CHARACTERS = 4096
SqlClass = Literal["read", "write", "admin"]
Policy = Literal["fail", "server", "client"]
PositionText = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,19})\.(0|[1-9][0-9]{0,19})$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", val_json_bytes="base64")


class ChangesetStep(_Part):
    """Rows that changed, as a SQLite changeset."""

    kind: Literal["changeset"] = "changeset"
    data: Binary


class DdlStep(_Part):
    """A statement that changed the schema."""

    kind: Literal["ddl"] = "ddl"
    sql: str


class RowsStep(_Part):
    """Rows of a table without a key as they are now, by rowid: values in JSON, or None where there is no row.

    `columns` are those of the values. It stands for a changeset where SQLite cannot make one.
    """

    kind: Literal["rows"] = "rows"
    table: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[Any, ...] | None], ...]


class RowidsStep(_Part):
    """Rowids of changed rows in a table with another key: (rowid, key...) each, values in JSON."""

    kind: Literal["rowids"] = "rowids"
    table: str
    rows: tuple[tuple[Any, ...], ...]


class StateStep(_Part):
    """What sessions do not see, as it stands after the command; None: unchanged.

    `sequences` are the counters of AUTOINCREMENT that changed: the value in JSON, or nothing if it is gone.
    """

    kind: Literal["state"] = "state"
    sequences: Mapping[str, tuple[Any, ...]] | None = None
    user_version: int | None = None
    application_id: int | None = None


Step = Annotated[ChangesetStep | DdlStep | RowsStep | RowidsStep | StateStep, Field(discriminator="kind")]


class Ran(_Part):
    """A statement that ran `times` in a row; `arguments` is a digest over those of all runs."""

    sql: str
    times: NonNegativeInt = 1
    arguments: str = ""


class DocumentFact(Fact):
    """Something changed a document: by these steps, in these tables (their columns in the order of the changesets)."""

    steps: tuple[Step, ...] = ()
    tables: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)  # a default would be copied each time

    @property
    def subject(self) -> str:
        """The first table."""
        return next(iter(self.tables), "")

    @property
    def touched(self) -> tuple[str, ...]:
        """The tables that changed."""
        return tuple(self.tables)

    @property
    def changes_schema(self) -> bool:
        """Whether tables themselves changed."""
        return any(isinstance(step, DdlStep) for step in self.steps)


class SqlExecuted(DocumentFact):
    """Somebody ran SQL; `statements` say what, `steps` what came of it."""

    TYPE: ClassVar[str] = "forge.doc.sql.executed"
    statements: tuple[Ran, ...] = ()


class ChangesPushed(DocumentFact):
    """Changes made in a copy at `base` were taken over, conflicts decided by `policy`."""

    TYPE: ClassVar[str] = "forge.doc.changes.pushed"
    base: PositionText
    policy: Policy


class ContentCopied(DocumentFact):
    """One part of another document's content, as it was at `source_position`, was taken over.

    That has the source's system tables too, of `system_version`.
    """

    TYPE: ClassVar[str] = "forge.doc.content.copied"
    source: DbId
    source_position: PositionText
    part: NonNegativeInt
    last: bool
    system_version: NonNegativeInt = 0


class SystemMigrated(DocumentFact):
    """The system tables were brought to `version`."""

    TYPE: ClassVar[str] = "forge.doc.system.migrated"
    version: NonNegativeInt


class Expectation(BaseModel):
    """What a statement must do for its batch to be kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows_affected: NonNegativeInt | None = None
    row_count: NonNegativeInt | None = None


class Statement(BaseModel):
    """One SQL statement. Arguments are JSON values as `schemas.values` encodes them, by position or by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sql: str
    args: list[Any] | dict[str, Any] = Field(default_factory=list)
    expect: Expectation | None = None


class DocumentCommand(Command):
    """A command to a document. It is refused unless the leases that it rests on, `fences`, hold at that moment."""

    fences: Fences = ()


class RunSql(DocumentCommand):
    """Run statements, all or none. `classes` is what the caller may do."""

    statements: tuple[Statement, ...] = Field(min_length=1)
    classes: tuple[SqlClass, ...]
    timeout_s: float | None = None
    max_rows: int | None = None


class PushChanges(DocumentCommand):
    """Take over changes that were made in a copy of the document at `base`."""

    base: PositionText
    changeset: Binary
    policy: Policy = "fail"
    rebase: bool = False
    columns: Mapping[str, tuple[str, ...]] = Field(default_factory=dict, exclude=True)
    """What the copy's tables look like by name in lower case, where that is known. No part of what was asked for."""


class CopyContent(Command):
    """Take over one part of another document's content. Parts come in order; one that was taken is passed over."""

    source: DbId
    source_position: PositionText
    part: NonNegativeInt
    last: bool
    steps: tuple[Step, ...]
    tables: Mapping[str, tuple[str, ...]] = {}
    system_version: NonNegativeInt = 0


class PrepareSystem(DocumentCommand):
    """See to it that the document has its system tables; that the `fences` hold, too. The answer is null."""
