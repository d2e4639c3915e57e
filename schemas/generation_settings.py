"""The settings of generations: when they are made, how they are proved, and how long they are kept."""

from pydantic import AliasChoices, BaseModel, Field


class GenerationSettings(BaseModel):
    """How often a projection is copied to the object store, and what that may take."""

    generation_records: int = Field(
        2000,
        gt=0,
        validation_alias=AliasChoices("FORGE_GENERATION_RECORDS"),
        description="archived records after which a projection gets a new generation",
    )
    generation_bytes: int = Field(
        8 << 20,
        gt=0,
        validation_alias=AliasChoices("FORGE_GENERATION_BYTES"),
        description="bytes of archived records after which a projection gets a new generation",
    )
    generation_every_s: float = Field(
        300,
        ge=0,
        validation_alias=AliasChoices("FORGE_GENERATION_EVERY_S"),
        description="seconds between two generations of a projection at least; more if one takes long",
    )
    generation_concurrency: int = Field(
        2,
        gt=0,
        le=16,
        validation_alias=AliasChoices("FORGE_GENERATION_CONCURRENCY"),
        description="generations that are made at the same time",
    )
    generation_scratch_bytes: int = Field(
        8 << 30,
        gt=0,
        validation_alias=AliasChoices("FORGE_GENERATION_SCRATCH_BYTES"),
        description="disk that copies for generations take at the same time; a larger one is made alone",
    )
    generation_verify: float = Field(
        0.1,
        ge=0,
        le=1,
        validation_alias=AliasChoices("FORGE_GENERATION_VERIFY"),
        description="share of the generations that are restored and compared before they count; the first always is",
    )
    generation_keep: int = Field(
        3,
        gt=0,
        le=1000,
        validation_alias=AliasChoices("FORGE_GENERATION_KEEP"),
        description="newest generations of a projection that are kept",
    )
    generation_keep_days: int = Field(
        7,
        ge=0,
        le=3650,
        validation_alias=AliasChoices("FORGE_GENERATION_KEEP_DAYS"),
        description="days of which the last generation is kept too",
    )
    archive_keep_days: int = Field(
        0,
        ge=0,
        le=36500,
        validation_alias=AliasChoices("FORGE_ARCHIVE_KEEP_DAYS"),
        description="days of history that the archive keeps, of what has a generation; 0: all of it, for ever",
    )
    generation_sweep_s: float = Field(
        86400,
        gt=0,
        validation_alias=AliasChoices("FORGE_GENERATION_SWEEP_S"),
        description="seconds between two searches for what the archive need not keep: old history, unnamed chunks",
    )
    generation_grace_s: float = Field(
        86400,
        gt=0,
        validation_alias=AliasChoices("FORGE_GENERATION_GRACE_S"),
        description="seconds that such a chunk is kept, for whoever is reading an old generation",
    )
