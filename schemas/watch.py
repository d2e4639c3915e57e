"""The HTTP body of a watch."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from schemas.document import Statement

HEARTBEAT_S_DEFAULT = 15.0
ROWS_MAX = 5000


class WatchOptions(BaseModel):
    """How to be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heartbeat_seconds: float = Field(
        HEARTBEAT_S_DEFAULT, ge=1, le=300, description="after so long without news comes a sign of life"
    )
    max_rows: int | None = Field(None, ge=1, le=ROWS_MAX, description="a result with more rows ends the watch (413)")


class WatchRequest(BaseModel):
    """A query to watch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sql: str = Field(description="one statement that only reads")
    args: list[Any] | dict[str, Any] = Field(default_factory=list, description="by position, or by name")
    options: WatchOptions = WatchOptions()

    @property
    def statement(self) -> Statement:
        """The query as it is run."""
        return Statement(sql=self.sql, args=self.args)
