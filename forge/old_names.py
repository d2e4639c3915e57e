"""Names in the environment that older relays read and Forge does not, with what to set instead."""

from collections.abc import Iterator, Mapping

_TOKENS = "tokens are made with `forge token create`; the first one is root.token in the data directory"
_NO_LOGIN = "people do not log in to this version; use tokens (`forge token create`)"
_NO_BLOBS = "this version stores no objects"

OLD_NAMES: Mapping[str, str] = {
    "SECRET_KEY": "no key is needed; the same one in FORGE_RELAY_HOOK_KEY keeps old hooks working",
    "FORGEJO_URL": _TOKENS,
    "FORGEJO_TOKEN": _TOKENS,
    "ACL_TTL": "revoked tokens end at once, nothing is cached for a time",
    "PATCHWORK_BIND_ADDR": "set FORGE_LISTEN",
    "PATCHWORK_DATA_DIR": "set FORGE_DATA_DIR",
    "PATCHWORK_BOOTSTRAP_ADMIN_TOKEN": _TOKENS,
    "PATCHWORK_LOG_LEVEL": "set FORGE_LOG_LEVEL",
    "PATCHWORK_READ_HEADER_TIMEOUT": "set FORGE_HEADER_DEADLINE_S",
    "PATCHWORK_READ_TIMEOUT": "a body may take as long as it makes progress",
    "PATCHWORK_WRITE_TIMEOUT": "an answer may take as long as it is read",
    "PATCHWORK_IDLE_WORKER_TIMEOUT": "set FORGE_PARTITION_IDLE",
    "PATCHWORK_CLEANUP_INTERVAL": "set FORGE_PARTITION_IDLE",
    "PATCHWORK_RATE_LIMIT_GLOBAL_RPS": "set FORGE_RATE_GLOBAL",
    "PATCHWORK_RATE_LIMIT_GLOBAL_BURST": "set FORGE_RATE_GLOBAL_BURST",
    "PATCHWORK_RATE_LIMIT_TOKEN_RPS": "set FORGE_RATE_TOKEN",
    "PATCHWORK_RATE_LIMIT_TOKEN_BURST": "set FORGE_RATE_TOKEN_BURST",
    "PATCHWORK_OIDC_ISSUER": _NO_LOGIN,
    "PATCHWORK_OIDC_CLIENT_ID": _NO_LOGIN,
    "PATCHWORK_OIDC_CLIENT_SECRET": _NO_LOGIN,
    "PATCHWORK_OIDC_REDIRECT_URL": _NO_LOGIN,
    "PATCHWORK_OIDC_SCOPES": _NO_LOGIN,
    "PATCHWORK_OIDC_ADMIN_SUBJECTS": _NO_LOGIN,
    "PATCHWORK_WEB_SESSION_TTL": _NO_LOGIN,
    "PATCHWORK_BLOB_GC_INTERVAL": _NO_BLOBS,
    "PATCHWORK_BLOB_GC_GRACE_PERIOD": _NO_BLOBS,
    "PATCHWORK_BLOB_SIGNING_KEY": _NO_BLOBS,
    "PATCHWORK_BLOB_SIGNED_URL_TTL": _NO_BLOBS,
}


def old_names_in(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each older name that is set, with the advice; values are left alone, as some are secrets."""
    return ((name, advice) for name, advice in OLD_NAMES.items() if environ.get(name, "").strip())
