"""The settings of the writer lease of a replica prefix."""

from typing import Literal

from pydantic import AliasChoices, BaseModel, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

DURATION_S = 45


class LeaseSettings(BaseModel):
    """How a node makes sure that it alone writes below its prefix of the object store."""

    lease_mode: Literal["auto", "hard", "soft", "off"] = Field(
        "auto",
        validation_alias=AliasChoices("FORGE_LEASE_MODE"),
        description="how the writer lease is kept: hard needs conditional writes of the store, soft does without and "
        "is no protection against two that begin at the same moment, off has none; auto: hard if the store can",
    )
    lease_duration_s: float = Field(
        DURATION_S,
        gt=0,
        le=3600,
        validation_alias=AliasChoices("FORGE_LEASE_DURATION_S"),
        description="seconds after which another node takes over if this one does not renew the writer lease",
    )
    lease_margin_s: float = Field(
        0,
        ge=0,
        validate_default=True,
        validation_alias=AliasChoices("FORGE_LEASE_MARGIN_S"),
        description="seconds before the end of the writer lease at which a node that could not renew it stops writing; "
        "0: a ninth of its duration",
    )
    lease_renew_s: float = Field(
        0,
        ge=0,
        validate_default=True,
        validation_alias=AliasChoices("FORGE_LEASE_RENEW_S"),
        description="seconds after which the writer lease is renewed; 0: a third of its duration",
    )

    standby_poll_s: float = Field(
        1,
        ge=0.05,
        le=60,
        validation_alias=AliasChoices("FORGE_STANDBY_POLL_S"),
        description="seconds after which a standby looks again what the writer has archived",
    )

    @field_validator("lease_margin_s")
    @classmethod
    def _margin(cls, margin_s: float, info: ValidationInfo) -> float:
        duration_s: float = info.data.get("lease_duration_s", DURATION_S)
        if margin_s >= duration_s:
            raise PydanticCustomError("margin", f"must be < FORGE_LEASE_DURATION_S, which is {duration_s:g}")
        return margin_s or duration_s / 9

    @field_validator("lease_renew_s")
    @classmethod
    def _renew(cls, renew_s: float, info: ValidationInfo) -> float:
        usable_s: float = info.data.get("lease_duration_s", DURATION_S) - info.data.get("lease_margin_s", 0)
        if renew_s >= usable_s:
            raise PydanticCustomError(
                "renew", f"must be < FORGE_LEASE_DURATION_S - FORGE_LEASE_MARGIN_S, which is {usable_s:g}"
            )
        return renew_s or min(info.data.get("lease_duration_s", DURATION_S) / 3, usable_s / 2)
