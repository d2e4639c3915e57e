"""The settings of documents."""

from typing import Literal

from pydantic import AliasChoices, BaseModel, Field


class DocumentSettings(BaseModel):
    """What documents may cost, and who may make them."""

    sql_timeout_s: float = Field(
        5,
        gt=0,
        validation_alias=AliasChoices("FORGE_SQL_TIMEOUT_S"),
        description="seconds that a statement or batch may take",
    )
    sql_rows_max: int = Field(
        5000,
        gt=0,
        validation_alias=AliasChoices("FORGE_SQL_ROWS_MAX"),
        description="rows in one answer that is not streamed",
    )
    sql_result_bytes_max: int = Field(
        1 << 20,
        gt=0,
        validation_alias=AliasChoices("FORGE_SQL_RESULT_BYTES_MAX"),
        description="rows in one answer that is not streamed, bytes of JSON",
    )
    travel_cache_bytes: int = Field(
        1 << 30,
        gt=0,
        validation_alias=AliasChoices("FORGE_TRAVEL_CACHE_BYTES"),
        description="disk for copies of documents as they were, bytes",
    )
    snapshot_cache_bytes: int = Field(
        4 << 30,
        gt=0,
        validation_alias=AliasChoices("FORGE_SNAPSHOT_CACHE_BYTES"),
        description="disk for snapshots that replicas download, bytes",
    )
    partitions_open_max: int = Field(
        512,
        gt=0,
        validation_alias=AliasChoices("FORGE_PARTITIONS_OPEN_MAX"),
        description="partitions, documents above all, that are kept open at the same time",
    )
    webhook_bytes_max: int = Field(
        8 << 20,
        gt=0,
        le=15 << 20,
        validation_alias=AliasChoices("FORGE_WEBHOOK_BYTES_MAX"),
        description="body of one webhook, bytes; at most 15 MiB, since a row has at most 16",
    )
    db_create: Literal["scope", "open"] = Field(
        "scope",
        validation_alias=AliasChoices("FORGE_DB_CREATE"),
        description="who may make documents: scope (holders of db.create) or open (all who may do something on it)",
    )
