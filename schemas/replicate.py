"""What a node tells about its archive over HTTP."""

from pydantic import BaseModel, ConfigDict, Field


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class StreamReply(_Told):
    """One stream of the log: what of it is not archived."""

    stream: str
    lag_records: int
    lag_bytes: int = Field(description="estimated for what was not read yet")
    lag_s: float = Field(description="age of the oldest record that is not archived")
    trouble: str = Field(description="why archiving waits; empty: it does not")


class PartitionReply(_Told):
    """One partition: where it stands here and in the archive. Null is what could not be found out."""

    partition: str
    position: str = Field(description="position of its last record in the log")
    archived: str | None = Field(description="position up to which it is in the archive")
    lag_records: int | None
    lag_bytes: int | None
    lag_s: float | None = Field(description="age of the first record that is not archived")
    problem: str | None = Field(description="why it is not archived any more, or not known")


class ReplicateStatusReply(_Told):
    """How far everything is archived; one page of the partitions."""

    archive: str | None = Field(description="where the archive is; null: this node has none")
    streams: list[StreamReply]
    partitions: list[PartitionReply]
    next: str | None = Field(description="ask for `after` this for the next page; null: this is the last one")
