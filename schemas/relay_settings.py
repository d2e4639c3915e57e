"""The settings of the stream relay."""

from datetime import date

from pydantic import AliasChoices, BaseModel, Field, SecretStr


class RelaySettings(BaseModel):
    """What the relay may keep in memory, how long it waits, and what it passes on."""

    relay_buffer_bytes: int = Field(
        256 << 20,
        gt=0,
        validation_alias=AliasChoices("FORGE_RELAY_BUFFER_BYTES"),
        description="bodies that wait in memory to be delivered, bytes; those of one document at most half of it",
    )
    relay_switch_timeout_s: float = Field(
        30,
        gt=0,
        validation_alias=AliasChoices("FORGE_RELAY_SWITCH_TIMEOUT_S"),
        description="seconds that a request waits for its answer once its responder has it",
    )
    relay_auto_headers: bool = Field(
        True,
        validation_alias=AliasChoices("FORGE_RELAY_AUTO_HEADERS"),
        description="relay what a sender's client says of itself (User-Agent and the like): true or false",
    )
    relay_deprecation: date | None = Field(
        None,
        validation_alias=AliasChoices("FORGE_RELAY_DEPRECATION"),
        description="day from which the older paths count as deprecated, as answers there then say; unset: they do not",
    )
    relay_hook_key: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("FORGE_RELAY_HOOK_KEY"),
        description="key of the secrets of /h and /r; empty: these paths are not there",
    )
