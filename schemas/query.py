"""The HTTP bodies of queries: one statement, or several that happen together or not at all."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from schemas.document import SqlClass, Statement

STATEMENTS_MAX = 1000


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class QueryOptions(_Asked):
    """Bounds below those of the node: how long a statement may run, and how many rows it may answer."""

    timeout_seconds: PositiveFloat | None = None
    max_rows: PositiveInt | None = None


class ExecRequest(_Asked):
    """One statement. `args` are an array by position or an object by name; docs/documents-query.md has the encoding."""

    sql: str
    args: list[Any] | dict[str, Any] = Field(default_factory=list)
    options: QueryOptions = QueryOptions()

    @property
    def statement(self) -> Statement:
        """What to run."""
        return Statement(sql=self.sql, args=self.args)


class BatchRequest(_Asked):
    """Several statements, all or none; each may say what it must do."""

    statements: tuple[Statement, ...] = Field(min_length=1, max_length=STATEMENTS_MAX)
    options: QueryOptions = QueryOptions()


class ExecReply(BaseModel):
    """What a statement did. Rows are there when it answers rows, `result_bytes` (of them in JSON) when it is a read."""

    model_config = ConfigDict(populate_by_name=True)

    kind: SqlClass = Field(alias="class")
    columns: Sequence[str] | None = None
    rows: Sequence[Sequence[Any]] | None = None
    row_count: int | None = None
    result_bytes: int | None = None
    rows_affected: int | None = None
    last_insert_id: int | None = None


class BatchReply(BaseModel):
    """The results of the statements, in their order."""

    results: Sequence[ExecReply]
