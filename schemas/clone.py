"""HTTP bodies about clones."""

from pydantic import BaseModel, ConfigDict, Field

from schemas.control import DocumentName
from schemas.document import PositionText
from schemas.ids import DbId
from schemas.registry import DocumentView


class CloneRequest(BaseModel):
    """A new document with the content that another one has, or had."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    db_id: DbId = Field(description="the new document")
    at: str | None = Field(None, description="a position or a time of the old one; now by default", max_length=64)
    name: DocumentName | None = Field(None, description="the new one's name for people")


class CloneReply(DocumentView):
    """The new document, and what it was made of."""

    source: DbId
    source_position: PositionText
