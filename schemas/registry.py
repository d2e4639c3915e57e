"""HTTP bodies about the registry of documents."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from schemas.control import DocumentName, NewDbId

State = Literal["active", "archived", "deleted"]


class CreateRequest(BaseModel):
    """A new document: its address, and its name for people (default: the address)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    db_id: NewDbId
    name: DocumentName | None = None


class RenameRequest(BaseModel):
    """Another name for people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DocumentName


class DocumentView(BaseModel):
    """One document. An `archived` one takes no writes, a `deleted` one answers 410."""

    db_id: str
    name: str
    owner: str
    state: State
    created_at: str
    changed_at: str
    archived_at: str | None
    deleted_at: str | None


class DocumentsReply(BaseModel):
    """A page of documents by `db_id`; `next` is the `after` of the following page."""

    documents: list[DocumentView]
    next: str | None


class OpenedReply(BaseModel):
    """A document is open on this node."""

    db_id: str
    opened: bool
    runtime: Literal["active"]


class StatusReply(BaseModel):
    """How a document does on this node; `position` is null while it is closed for idleness."""

    db_id: str
    healthy: bool
    state: State
    runtime: Literal["active", "idle", "stopped"]
    position: str | None
    waiting: int
    timestamp: str
