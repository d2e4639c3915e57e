"""The change feed of a document as it is sent: the same items as JSON pages and as server-sent events."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.document import Ran

Values = dict[str, Any]
"""Column names and values, these as `schemas.values` encodes them."""


class _Item(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RowChange(_Item):
    """One row that changed.

    A `put` tells only how the row is now: what commands are told to do that change many rows of a table without a
    key. Beside it, and in the system tables, old values are not told.
    """

    op: Literal["insert", "update", "delete", "put"]
    table: str
    key: Values = Field(description="the primary key; `_rowid_` for a table without one")
    old: Values | None = Field(description="delete: the whole row; update: what the changed columns were; else null")
    new: Values | None = Field(description="insert, put: the whole row; update: the changed columns; delete: null")
    unreadable: bool = Field(False, description="a text in it is not UTF-8, so that key and values are left out")


class SchemaChange(_Item):
    """One statement that changed the schema."""

    op: Literal["ddl"]
    sql: str


class Change(_Item):
    """One command that changed the document, or a part of it if it changed many rows.

    Commands that were committed together share a position. `statements` stand in the first part only, `changes` are
    null if they were not asked for.
    """

    position: str
    event: str = Field(description="id of the event in the log; the same in all parts")
    time: str
    principal: str
    kind: str = Field(description="what was done, for example sql.executed")
    statements: tuple[Ran, ...] = ()
    tables: tuple[str, ...] = ()
    part: int = Field(0, ge=0, description="from 0; parts of one command come in order")
    more: bool = Field(False, description="whether further parts follow")
    changes: tuple[RowChange | SchemaChange, ...] | None = None


class ChangesPage(_Item):
    """Changes between two positions, whole commits only."""

    changes: tuple[Change, ...]
    next: str = Field(description="ask for what comes after this position next; never null")
    head: str = Field(description="position of the last commit")
    eof: bool = Field(description="whether nothing followed when the answer was made")


class Heartbeat(_Item):
    """A sign of life, and the position that has been passed, also where nothing of interest was."""

    position: str
