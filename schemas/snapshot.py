"""What a node says of a snapshot of a document."""

from pydantic import BaseModel, ConfigDict, Field


class SnapshotMeta(BaseModel):
    """One snapshot: a SQLite file that holds a document exactly as it was at `position`."""

    model_config = ConfigDict(frozen=True)

    db_id: str
    generation: str = Field(description="the name of this snapshot, and its ETag without quotes")
    position: str = Field(description="`epoch.index`; the next record has the index that follows")
    epoch: int
    index: int
    cursor: dict[str, int] = Field(description="what to ask `wal` for next: segment and offset")
    hash: str = Field(description="hash of the chain at the position")
    digest: str = Field(description="digest of the content, the same on every copy at this position")
    sha256: str = Field(description="of the bytes, hex")
    size_bytes: int
    page_size: int
    schema_version: str = Field(description="version of the tables that Forge keeps in the file")
    created_at: str
    previous: str | None = Field(description="the generation before, if it was made by this process")
