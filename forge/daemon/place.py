"""Where the daemon of a machine keeps what it stores: a prefix of its own below that of the settings."""

from schemas.settings import InvalidSettings, Settings

NODES = "nodes"
FIXED = ("data_dir", "cache_dir", "node_id", "snapshot_db", "refs_db", "nats_url", "log_bytes_max", "shutdown_s")
"""Settings of what stays open while others are read again."""


def daemon_prefix(settings: Settings) -> str:
    """Return where the daemon of this machine stores, below the prefix of the settings."""
    return f"{settings.s3_prefix}/{NODES}/{settings.node_id}"


def daemon_settings(settings: Settings) -> Settings:
    """Return the settings of a daemon: machines share a bucket and a prefix, and each has one history below it.

    Raise `InvalidSettings` if they name no bucket.
    """
    if not settings.s3_bucket:
        raise InvalidSettings(["FORGE_S3_BUCKET is not set: there is nowhere to replicate to"])
    return settings.model_copy(update={"s3_prefix": daemon_prefix(settings)})


def reloaded(before: Settings, after: Settings) -> tuple[Settings, list[str]]:
    """Return `after` with what only a restart can change left as it was, and the fields that it would change."""
    differing = [field for field in FIXED if getattr(before, field) != getattr(after, field)]
    kept = after.model_copy(update={field: getattr(before, field) for field in differing})
    return kept, differing
