"""The settings of the NATS servers that hold the log."""

from pydantic import AliasChoices, BaseModel, Field, SecretStr


class NatsSettings(BaseModel):
    """Where the servers are, and as whom a node speaks with them."""

    nats_url: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("FORGE_NATS_URL"),
        description="NATS server and user that writes the log; empty: start a server",
    )
    nats_read_url: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("FORGE_NATS_READ_URL"),
        description="NATS user that only reads the log; empty: as FORGE_NATS_URL",
    )
    nats_live_url: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("FORGE_NATS_LIVE_URL"),
        description="NATS user of live traffic and commands; empty: as FORGE_NATS_URL",
    )
    nats_admin_url: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("FORGE_NATS_ADMIN_URL"),
        description="NATS user that creates streams; empty: as FORGE_NATS_URL",
    )
    nats_monitor_url: str = Field(
        "",
        validation_alias=AliasChoices("FORGE_NATS_MONITOR_URL"),
        description="HTTP monitoring address of the NATS server, which tells whether it fsyncs",
    )
    nats_replicas: int = Field(
        1, ge=1, le=5, validation_alias=AliasChoices("FORGE_NATS_REPLICAS"), description="servers that hold each stream"
    )
