"""The settings of replica tracking, and of how much of the log stays on the server once it is archived."""

from pydantic import AliasChoices, BaseModel, Field


class ReplicaSettings(BaseModel):
    """When a replica counts as what, for how long the log waits for one, and what the log keeps."""

    replica_heartbeat_s: float = Field(
        30,
        gt=0,
        validation_alias=AliasChoices("FORGE_REPLICA_HEARTBEAT_S"),
        description="seconds between two events that note where replicas stand, one for all of them",
    )
    replica_lag_s: float = Field(
        60,
        gt=0,
        validation_alias=AliasChoices("FORGE_REPLICA_LAG_S"),
        description="seconds that a replica may be behind before it counts as lagging",
    )
    replica_stalled_s: float = Field(
        90,
        gt=0,
        validation_alias=AliasChoices("FORGE_REPLICA_STALLED_S"),
        description="seconds without a word after which a replica counts as stalled",
    )
    replica_ttl_s: float = Field(
        3600,
        gt=0,
        validation_alias=AliasChoices("FORGE_REPLICA_TTL_S"),
        description="seconds without a word after which the log waits for a replica no longer",
    )
    log_retention_every_s: float = Field(
        60,
        ge=0,
        validation_alias=AliasChoices("FORGE_LOG_RETENTION_EVERY_S"),
        description="seconds between two looks at what of the log is archived and need not stay here; 0: all stays",
    )
    log_retention_records: int = Field(
        1024,
        gt=0,
        validation_alias=AliasChoices("FORGE_LOG_RETENTION_RECORDS"),
        description="newest records of each partition that stay in the log, although archived",
    )
    log_retention_s: float = Field(
        86_400,
        ge=0,
        validation_alias=AliasChoices("FORGE_LOG_RETENTION_S"),
        description="seconds that a record stays in the log, although archived",
    )
    log_disk_cap_bytes: int = Field(
        0,
        ge=0,
        validation_alias=AliasChoices("FORGE_LOG_DISK_CAP_BYTES"),
        description="bytes of log above which the two bounds before are dropped and stalled replicas evicted; 0: none",
    )
