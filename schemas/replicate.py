"""What a node tells about its archive over HTTP."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.drill import DrillResult

GENERATIONS_AT_ONCE = 16


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class StreamReply(_Told):
    """One stream of the log: what of it is not archived."""

    stream: str
    lag_records: int
    lag_bytes: int = Field(description="estimated for what was not read yet")
    lag_s: float = Field(description="age of the oldest record that is not archived")
    trouble: str = Field(description="why archiving waits; empty: it does not")


class GenerationReply(_Told):
    """The newest generation of a projection that counts. Null is what there is not."""

    projection: str
    position: str | None = Field(None, description="where it stands")
    verified: str | None = Field(None, description="position of the newest that was restored and compared")
    size_bytes: int | None = None
    made_at: str | None = Field(None, description="since when it counts")
    problem: str | None = Field(None, description="why that is not known")


class PartitionReply(_Told):
    """One partition: where it stands here and in the archive. Null is what could not be found out."""

    partition: str
    position: str = Field(description="position of its last record in the log")
    archived: str | None = Field(description="position up to which it is in the archive")
    lag_records: int | None
    lag_bytes: int | None
    lag_s: float | None = Field(description="age of the first record that is not archived")
    problem: str | None = Field(description="why it is not archived any more")
    unknown: str | None = Field(None, description="why the store did not tell how far it is archived")
    generations: list[GenerationReply] = Field([], description="of its projections")
    generation_problem: str | None = Field(None, description="why the next generation is late")
    drills: list[DrillResult] = Field([], description="the last drill of each projection that had one")


class HeldReply(_Told):
    """Records that stay in the log because somebody needs them."""

    partition: str
    by: str = Field(description="`archive`, `generation`, `replica NAME`, or the setting that keeps them")
    records: int = Field(description="so many could leave the log at once if it were not for that")


class RetentionReply(_Told):
    """What the log keeps on the server, as the last look found it."""

    used_bytes: int | None = Field(description="disk that the log takes; null: nobody has looked yet")
    cap_bytes: int | None = Field(description="disk that it may take; null: any")
    held: list[HeldReply] = Field(description="who holds most records, at most 20")
    trouble: str = Field(description="why something could not be looked at")


class ReplicateStatusReply(_Told):
    """How far everything is archived; one page of the partitions."""

    archive: str | None = Field(description="where the archive is; null: this node has none")
    streams: list[StreamReply]
    partitions: list[PartitionReply]
    retention: RetentionReply | None = Field(None, description="null: all of the log stays on the server")
    next: str | None = Field(description="ask for `after` this for the next page; null: this is the last one")


class GenerationsRequest(BaseModel):
    """Projections that are to get a generation now."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    projections: list[str] = Field(
        min_length=1, max_length=GENERATIONS_AT_ONCE, description="names, such as `control` and `doc/notes`"
    )


class GenerationMade(_Told):
    """What became of the wish for a generation of one projection."""

    projection: str
    result: Literal["made", "unchanged", "absent", "failed", "making"] = Field(
        description="`unchanged`: the newest one stands where the projection does; `absent`: it has no file here; "
        "`making`: not done yet, ask again"
    )
    position: str | None = Field(None, description="of its newest generation")
    size_bytes: int | None = None
    stored_bytes: int | None = Field(None, description="what of it the archive did not have, if it was made now")
    verified: bool = Field(False, description="whether it was restored and compared")
    problem: str | None = None


class GenerationsReply(_Told):
    """What became of them, in the order in which they were asked for."""

    generations: list[GenerationMade]
