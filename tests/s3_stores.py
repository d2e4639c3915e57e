"""Object stores on the SeaweedFS of the tests.

They share one bucket: each bucket takes volumes of its own, of which the server has only as many as the disk holds.
"""

from urllib.parse import urlsplit

from events.objects.s3 import S3Store
from events.objects.s3_account import Account
from events.objects.s3_clients import s3_clients
from forge.stack.weed import REGION, Weed

BUCKET = "forge-tests"


def s3_environ(weed: Weed, *, port: int | None = None, prefix: str = "forge") -> dict[str, str]:
    """Return the settings of a node that archives below `prefix`; `port` is that of a proxy in front of the server."""
    _make_bucket(weed)
    return {
        "FORGE_S3_BUCKET": BUCKET,
        "FORGE_S3_PREFIX": prefix,
        "FORGE_S3_REGION": REGION,
        "FORGE_S3_ENDPOINT_URL": _url(weed, port),
        "FORGE_S3_ACCESS_KEY_ID": weed.access_key,
        "FORGE_S3_SECRET_ACCESS_KEY": weed.secret_key,
        "FORGE_S3_FORCE_PATH_STYLE": "true",
    }


def s3_store(weed: Weed, *, bucket: str = BUCKET, port: int | None = None) -> S3Store:
    """Return a store; `port` is that of a proxy in front of the server. The caller closes it."""
    if bucket == BUCKET:
        _make_bucket(weed)
    keys = {"aws_access_key_id": weed.access_key, "aws_secret_access_key": weed.secret_key}
    return S3Store(s3_clients(Account(_url(weed, port), REGION, keys, path_style=True, direct=True), bucket), bucket)


def s3_address(weed: Weed) -> tuple[str, int]:
    """Return host and port of the server, for a proxy in front of it."""
    parts = urlsplit(weed.s3_url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


async def emptied(store: S3Store) -> S3Store:
    """Remove every object of a store."""
    while page := await store.list(""):
        for found in page:
            await store.delete(found.key)
    return store


def _url(weed: Weed, port: int | None) -> str:
    return weed.s3_url if port is None else f"http://127.0.0.1:{port}"


def _make_bucket(weed: Weed) -> None:
    client = weed.s3_client()
    try:
        if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=BUCKET)
    finally:
        client.close()
