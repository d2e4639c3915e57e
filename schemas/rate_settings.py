"""The settings that bound how many requests are let in."""

from pydantic import AliasChoices, BaseModel, Field


class RateSettings(BaseModel):
    """HTTP requests per second, and how many of them at once; health probes are never counted."""

    rate_global: float = Field(
        0,
        ge=0,
        validation_alias=AliasChoices("FORGE_RATE_GLOBAL"),
        description="HTTP requests per second in all; 0: any number",
    )
    rate_global_burst: int = Field(
        0,
        ge=0,
        validation_alias=AliasChoices("FORGE_RATE_GLOBAL_BURST"),
        description="of them at once; 0: twice as many as per second",
    )
    rate_token: float = Field(
        0,
        ge=0,
        validation_alias=AliasChoices("FORGE_RATE_TOKEN"),
        description="HTTP requests per second of one token; 0: any number",
    )
    rate_token_burst: int = Field(
        0,
        ge=0,
        validation_alias=AliasChoices("FORGE_RATE_TOKEN_BURST"),
        description="of them at once; 0: twice as many as per second",
    )
    rate_document: float = Field(
        0,
        ge=0,
        validation_alias=AliasChoices("FORGE_RATE_DOCUMENT"),
        description="HTTP requests per second to one document; 0: any number",
    )
    rate_document_burst: int = Field(
        0,
        ge=0,
        validation_alias=AliasChoices("FORGE_RATE_DOCUMENT_BURST"),
        description="of them at once; 0: twice as many as per second",
    )
    rate_unknown: float = Field(
        50,
        ge=0,
        validation_alias=AliasChoices("FORGE_RATE_UNKNOWN"),
        description="HTTP requests per second of all without a valid token; 0: any number",
    )
    rate_unknown_burst: int = Field(
        100,
        ge=0,
        validation_alias=AliasChoices("FORGE_RATE_UNKNOWN_BURST"),
        description="of them at once; 0: twice as many as per second",
    )
    rate_anonymous: float = Field(
        10,
        ge=0,
        validation_alias=AliasChoices("FORGE_RATE_ANONYMOUS"),
        description="HTTP requests per second without a token from one address; 0: any number",
    )
    rate_anonymous_burst: int = Field(
        20,
        ge=0,
        validation_alias=AliasChoices("FORGE_RATE_ANONYMOUS_BURST"),
        description="of them at once; 0: twice as many as per second",
    )
