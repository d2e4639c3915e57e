"""The settings of the object store and of the archive in it."""

from typing import Literal

from pydantic import AliasChoices, BaseModel, Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError

from schemas.archive import PREFIX_PATTERN
from schemas.setting_problems import BUCKET_PATTERN, REGION_PATTERN, URL_PATTERN


class S3Settings(BaseModel):
    """Where the object store is, and how eagerly the log is archived there."""

    s3_bucket: str = Field(
        "",
        pattern=BUCKET_PATTERN,
        validation_alias=AliasChoices("FORGE_S3_BUCKET"),
        description="bucket that the log is archived in; empty: only with `forge up --s3`",
    )
    s3_prefix: str = Field(
        "forge",
        pattern=PREFIX_PATTERN,
        validation_alias=AliasChoices("FORGE_S3_PREFIX"),
        description="what all keys in the bucket begin with; one prefix holds one history",
    )
    s3_region: str = Field(
        "us-east-1",
        pattern=REGION_PATTERN,
        validation_alias=AliasChoices("FORGE_S3_REGION"),
        description="region of the bucket",
    )
    s3_endpoint_url: str = Field(
        "",
        pattern=URL_PATTERN,
        validation_alias=AliasChoices("FORGE_S3_ENDPOINT_URL"),
        description="address of an S3 server; empty: that of AWS",
    )
    s3_access_key_id: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("FORGE_S3_ACCESS_KEY_ID"),
        description="access key; empty: found as the AWS tools find it",
    )
    s3_secret_access_key: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("FORGE_S3_SECRET_ACCESS_KEY"),
        description="secret of the access key",
    )
    s3_session_token: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("FORGE_S3_SESSION_TOKEN"),
        description="session token of a temporary access key",
    )
    s3_force_path_style: bool = Field(
        False,
        validation_alias=AliasChoices("FORGE_S3_FORCE_PATH_STYLE"),
        description="name the bucket in the path instead of the host: true or false",
    )
    archive_seal_s: float = Field(
        1.0,
        gt=0,
        le=3600,
        validation_alias=AliasChoices("FORGE_ARCHIVE_SEAL_S"),
        description="seconds after which new records are archived",
    )
    archive_seal_bytes: int = Field(
        1 << 20,
        gt=0,
        le=64 << 20,
        validation_alias=AliasChoices("FORGE_ARCHIVE_SEAL_BYTES"),
        description="bytes of one partition that are archived at once when they wait",
    )
    archive_memory_bytes: int = Field(
        32 << 20,
        gt=0,
        validation_alias=AliasChoices("FORGE_ARCHIVE_MEMORY_BYTES"),
        description="bytes of one stream that may wait in memory to be archived; the rest waits in the log",
    )
    archive_concurrency: int = Field(
        8,
        gt=0,
        le=64,
        validation_alias=AliasChoices("FORGE_ARCHIVE_CONCURRENCY"),
        description="partitions that are being archived at the same time",
    )
    payload_ack: Literal["local", "remote"] = Field(
        "local",
        validation_alias=AliasChoices("FORGE_PAYLOAD_ACK"),
        description="where the bytes of an upload are before it is answered: `local`, on this disk; `remote`, in the "
        "object store too",
    )
    archive_ready_lag_s: float = Field(
        60,
        ge=0,
        validation_alias=AliasChoices("FORGE_ARCHIVE_READY_LAG_S"),
        description="seconds that the archive may be behind while the node counts as ready; 0: any",
    )

    @field_validator("s3_access_key_id", "s3_session_token")
    @classmethod
    def _one_line(cls, key: SecretStr) -> SecretStr:
        """They are sent as headers, and one of the S3 clients crashes at what cannot be one."""
        if not key.get_secret_value().isprintable():
            raise PydanticCustomError("control", "must hold no end of line and no other control character")
        return key
