"""Every setting with its names, default and rule, read from a mapping that the caller gives."""

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import AliasChoices, ConfigDict, Field, SecretStr, ValidationError

from schemas.document_settings import DocumentSettings
from schemas.http_settings import HttpSettings
from schemas.nats_settings import NatsSettings
from schemas.node_settings import AbsolutePath, NodeSettings
from schemas.rate_settings import RateSettings
from schemas.relay_settings import RelaySettings
from schemas.replication_settings import ReplicationSettings
from schemas.setting_problems import setting_problem

_MACHINE = ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")


def _names(*names: str) -> AliasChoices:
    """Environment names of one setting, the first one found wins; later ones are older names."""
    return AliasChoices(*names)


class InvalidSettings(ValueError):
    """Some setting has a bad value; `problems` has one line each, beginning with the setting's name."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Settings(
    DocumentSettings,
    HttpSettings,
    NatsSettings,
    NodeSettings,
    RateSettings,
    RelaySettings,
    ReplicationSettings,
):
    """Settings of a node, all optional; sizes in bytes, times in the unit that the name ends in."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, allow_inf_nan=False)

    data_dir: AbsolutePath = Field(
        Path(), validation_alias=_names("FORGE_DATA_DIR"), description="databases, the log and the root token"
    )
    cache_dir: AbsolutePath = Field(
        Path(), validation_alias=_names("FORGE_CACHE_DIR"), description="payloads and temporary files"
    )
    listen: str = Field(
        "127.0.0.1:8080",
        validation_alias=_names("FORGE_LISTEN"),
        description="HTTP address of the API; port 0 picks a free one",
    )
    url: str = Field(
        "",
        validation_alias=_names("FORGE_URL"),
        description="where the command line finds a node; empty: the one in the data directory",
    )
    token: SecretStr = Field(
        SecretStr(""),
        validation_alias=_names("FORGE_TOKEN"),
        description="token the command line sends; empty: root.token of the data directory",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        validation_alias=_names("FORGE_LOG_LEVEL"),
        description="least severe message that is logged: debug, info, warning or error",
    )
    log_format: Literal["auto", "json", "pretty"] = Field(
        "auto",
        validation_alias=_names("FORGE_LOG_FORMAT"),
        description="json, pretty, or auto: pretty on a terminal",
    )

    log_bytes_max: int = Field(
        64 << 30,
        gt=0,
        validation_alias=_names("FORGE_LOG_BYTES_MAX"),
        description="disk that the embedded log may use, bytes",
    )
    partition_idle_s: float = Field(
        300,
        gt=0,
        validation_alias=_names("FORGE_PARTITION_IDLE"),
        description="seconds after which an unused partition is closed",
    )
    shutdown_s: float = Field(
        15, gt=0, validation_alias=_names("FORGE_SHUTDOWN_S"), description="seconds that a graceful stop may take"
    )
    upload_bytes_max: int = Field(
        1 << 30,
        gt=0,
        validation_alias=_names("FORGE_UPLOAD_BYTES_MAX"),
        description="largest accepted upload, bytes",
    )
    connections_max: int = Field(
        4096,
        gt=0,
        validation_alias=_names("FORGE_CONNECTIONS_MAX"),
        description="HTTP connections open at the same time",
    )
    header_deadline_s: float = Field(
        10,
        gt=0,
        validation_alias=_names("FORGE_HEADER_DEADLINE_S"),
        description="seconds that a client has to send its headers",
    )

    control_db: AbsolutePath = Field(
        Path(),
        validation_alias=_names("FORGE_PATH_CONTROL_DB"),
        description="projection with documents and tokens",
    )
    docs_dir: AbsolutePath = Field(
        Path(), validation_alias=_names("FORGE_PATH_DOCS"), description="the documents, one database each"
    )
    vector_embed_db: AbsolutePath = Field(
        Path(),
        validation_alias=_names("FORGE_PATH_VECTOR_EMBED_DB", "FORGE_VECTOR_EMBED_DB"),
        description="projection with the embeddings",
    )
    vector_queue_db: AbsolutePath = Field(
        Path(),
        validation_alias=_names("FORGE_PATH_VECTOR_QUEUE_DB", "FORGE_VECTOR_QUEUE_DB"),
        description="projection with the jobs",
    )
    vector_temp_dir: AbsolutePath = Field(
        Path(),
        validation_alias=_names("FORGE_PATH_VECTOR_TEMP_DIR", "FORGE_VECTOR_TEMP_DIR"),
        description="uploads that are still arriving; swept at start",
    )
    vector_hydrated_db: AbsolutePath = Field(
        Path(),
        validation_alias=_names("FORGE_PATH_VECTOR_HYDRATED_DB", "FORGE_VECTOR_HYDRATED_DB"),
        description="copy of the embeddings that `forge vector ingest` may ask first",
    )
    blob_cache: AbsolutePath = Field(
        Path(),
        validation_alias=_names("FORGE_PATH_BLOB_CACHE", "FORGE_BLOB_CACHE"),
        description="payloads by content hash",
    )

    vector_listen: str = Field(
        ":8080",
        validation_alias=_names("FORGE_VECTOR_LISTEN_ADDR", "LISTEN_ADDR"),
        description="HTTP address of `forge vector serve`",
    )
    vector_worker_url: str = Field(
        "",
        validation_alias=_names("FORGE_VECTOR_WORKER_URL", "WORKER_URL"),
        description="embedding worker of any kind; empty everywhere: the built-in ones",
    )
    vector_image_worker_url: str = Field(
        "",
        validation_alias=_names("FORGE_VECTOR_IMAGE_WORKER_URL", "IMAGE_WORKER_URL"),
        description="embedding worker of images; the worker of any kind by default",
    )
    vector_text_worker_url: str = Field(
        "",
        validation_alias=_names("FORGE_VECTOR_TEXT_WORKER_URL", "TEXT_WORKER_URL"),
        description="embedding worker of texts; the worker of images by default",
    )
    vector_worker_concurrency: int = Field(
        20,
        gt=0,
        validation_alias=_names("FORGE_VECTOR_WORKER_CONCURRENCY", "WORKER_CONCURRENCY"),
        description="files that are being embedded at the same time",
    )
    vector_call_timeout_s: float = Field(
        120,
        gt=0,
        validation_alias=_names("FORGE_VECTOR_CALL_TIMEOUT_S"),
        description="seconds that an embedding worker may take for one file; then it costs an attempt",
    )
    vector_lookup_chunk_size: int = Field(
        500,
        gt=0,
        validation_alias=_names("FORGE_VECTOR_LOOKUP_CHUNK_SIZE", "LOOKUP_CHUNK_SIZE"),
        description="hashes that one query of a lookup takes",
    )
    vector_queue_ack_timeout_ms: int = Field(
        5000,
        gt=0,
        validation_alias=_names("FORGE_VECTOR_QUEUE_ACK_TIMEOUT_MS", "QUEUE_ACK_TIMEOUT_MS"),
        description="milliseconds that an upload waits to be recorded before it gets 503",
    )
    vector_max_pending_jobs: int = Field(
        5000,
        gt=0,
        validation_alias=_names("FORGE_VECTOR_MAX_PENDING_JOBS", "MAX_PENDING_JOBS"),
        description="jobs that may wait before uploads get 429",
    )
    vector_max_job_attempts: int = Field(
        3,
        gt=0,
        validation_alias=_names("FORGE_VECTOR_MAX_JOB_ATTEMPTS", "MAX_JOB_ATTEMPTS"),
        description="bad answers of a worker before a job is given up",
    )

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Read settings from `environ`, where blank counts as unset; `InvalidSettings` names each bad one."""
        known = {name for field in cls.model_fields for name in cls.names(field)} | set(_MACHINE)
        given = {name: environ[name].strip() for name in known if environ.get(name, "").strip()}
        try:
            return cls.model_validate(_derived(given) | given)
        except ValidationError as error:
            secret = [field for field, info in cls.model_fields.items() if info.annotation is SecretStr]
            told = given | {name: "***" for field in secret for name in cls.names(field)}
            raise InvalidSettings([setting_problem(details, told) for details in error.errors()]) from None

    @classmethod
    def names(cls, field: str) -> list[str]:
        """Return the environment names of a field, newest first."""
        alias = cls.model_fields[field].validation_alias
        assert isinstance(alias, AliasChoices)
        return [str(choice) for choice in alias.choices]

    @classmethod
    def source(cls, field: str, environ: Mapping[str, str]) -> str:
        """Return the name that `field` is read from, or `default`."""
        return next((name for name in cls.names(field) if environ.get(name, "").strip()), "default")

    def worker_url(self, kind: str) -> str:
        """Return the embedding worker of `kind`, empty if none: text falls back to image, image to any."""
        image = self.vector_image_worker_url or self.vector_worker_url
        return ((self.vector_text_worker_url or image) if kind == "text" else image).rstrip("/")


def _derived(given: Mapping[str, str]) -> dict[str, str]:
    """Return defaults that depend on other settings or on the machine, by field, where none is given."""
    data = Path(given.get("FORGE_DATA_DIR") or _xdg(given, "XDG_DATA_HOME", ".local/share", "forge-data"))
    cache = Path(given.get("FORGE_CACHE_DIR") or _xdg(given, "XDG_CACHE_HOME", ".cache", "forge-cache"))
    defaults: dict[str, Path | str] = {
        "data_dir": data,
        "cache_dir": cache,
        "control_db": data / "control.db",
        "docs_dir": data / "docs",
        "snapshot_db": data / "snapshot.db",
        "refs_db": data / "refs.db",
        "vector_embed_db": data / "vector" / "embeddings.db",
        "vector_queue_db": data / "vector" / "queue.db",
        "vector_temp_dir": cache / "vector" / "tmp",
        "vector_hydrated_db": data / "embeddings.db",
        "blob_cache": cache / "blobs",
        "node_id": re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")[:63] or "node",
    }
    return {f: str(v) for f, v in defaults.items() if Settings.source(f, given) == "default"}


def _xdg(given: Mapping[str, str], variable: str, below_home: str, last_resort: str) -> Path:
    if base := given.get(variable):
        return Path(base) / "forge"
    if home := given.get("HOME"):
        return Path(home) / below_home / "forge"
    return Path(last_resort)
