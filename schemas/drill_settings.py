"""The settings of drills that a node does by itself."""

from pydantic import AliasChoices, BaseModel, Field


class DrillSettings(BaseModel):
    """When a node proves that its archive can be restored."""

    drill_every_s: float = Field(
        0,
        ge=0,
        validation_alias=AliasChoices("FORGE_DRILL_EVERY_S"),
        description="seconds between two drills of the archive by the node itself; 0: none",
    )
    drill_documents: int = Field(
        20,
        ge=0,
        validation_alias=AliasChoices("FORGE_DRILL_DOCUMENTS"),
        description="documents, picked at random, that such a drill restores beside the other projections",
    )
