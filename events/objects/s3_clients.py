"""How to reach a bucket of S3: obstore carries its bytes, boto3 does what obstore has no call for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import botocore.httpsession
import botocore.session
import obstore.store
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, NoCredentialsError
from obstore.exceptions import BaseError

from events.objects.errors import StoreRefused
from events.objects.s3_errors import NO_KEYS

if TYPE_CHECKING:  # it has these types only there
    from obstore.store import ClientConfig, S3Config, S3Credential, S3CredentialProvider

CONNECTIONS = 16  # of each client
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 10.0  # until an answer begins, and between two pieces of it
BULK_BYTES = 64 << 10  # obstore counts the sending of a body as waiting for the answer: what is longer gets
BULK_TIMEOUT_S = 120.0
TRANSFER_TIMEOUT_S = 600.0  # of one request that obstore makes, however busy its connection is
KEYS_KNOWN_S = 360.0  # obstore asks again when less than 300 s are left of what it was told
_NO_PROXY: "ClientConfig" = {"proxy_url": "http://127.0.0.1:9", "proxy_excludes": "*,0.0.0.0/0,::/0"}
"""obstore can be told of a proxy for nobody, not of none: then it takes that of the environment."""


@dataclass(frozen=True, slots=True)
class Account:
    """Where an S3 server is, and who we are there.

    Without `credentials` (named as boto3 names them) those of the machine are found as the AWS tools find them; without
    `endpoint_url` it is AWS. `direct` passes by the proxies of the environment.
    """

    endpoint_url: str
    region: str
    credentials: Mapping[str, str] = field(repr=False)
    path_style: bool
    direct: bool = False
    read_timeout_s: float = READ_TIMEOUT_S


class Clients(NamedTuple):
    """Ways to one bucket, none of which repeats a request by itself: the client of boto3, and those of obstore."""

    calls: Any
    data: obstore.store.S3Store
    bulk: obstore.store.S3Store
    """For bodies of more than `BULK_BYTES`."""


def s3_clients(account: Account, bucket: str) -> Clients:
    """Return both clients of a bucket; raise `StoreRefused` if there cannot be any. The caller closes that of boto3."""
    try:
        return _clients(account, bucket)
    except (BotoCoreError, BaseError, OSError) as error:
        why = str(error).partition("\n")[0]
        raise StoreRefused(f"S3 cannot be asked with these settings: {why}") from error


def _clients(account: Account, bucket: str) -> Clients:
    core = botocore.session.get_session()
    session = Session(region_name=account.region, botocore_session=core, **account.credentials)
    calls = session.client("s3", endpoint_url=account.endpoint_url or None, config=_config(account))
    endpoint, in_host = _place(calls, bucket)
    # All of this is said, also what is the default: else obstore takes it from AWS_* in the environment.
    config: S3Config = {
        "endpoint": endpoint,
        "aws_endpoint_url_s3": endpoint,
        "region": bucket.split(":")[3] if bucket.startswith("arn:") else account.region,
        "virtual_hosted_style_request": in_host,
        "conditional_put": "etag",
        "checksum_algorithm": "SHA256",  # SeaweedFS does not compare the hash that is signed
        "unsigned_payload": False,
        "skip_signature": False,
        "s3_express": False,
        "request_payer": False,
        "disable_bulk_delete": True,
    }
    keys = _keys(session, forever=bool(account.credentials))

    def client(read_timeout_s: float) -> obstore.store.S3Store:
        return obstore.store.S3Store(
            bucket,
            config=config,
            client_options=_options(account, core, endpoint) | {"read_timeout": timedelta(seconds=read_timeout_s)},
            retry_config={"max_retries": 0, "retry_timeout": timedelta()},
            credential_provider=keys,
        )

    return Clients(calls, client(account.read_timeout_s), client(max(account.read_timeout_s, BULK_TIMEOUT_S)))


def _config(account: Account) -> Any:
    """Return what boto3 is told."""
    return Config(
        s3={"addressing_style": "path" if account.path_style else "auto"},
        retries={"total_max_attempts": 1},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=account.read_timeout_s,
        max_pool_connections=CONNECTIONS,
        proxies={} if account.direct else None,
    )


def _options(account: Account, core: Any, endpoint: str) -> "ClientConfig":
    """Return what the connections of obstore are told; it trusts whom boto3 trusts, besides the machine's own."""
    options: ClientConfig = {
        "allow_http": True,
        "http1_only": True,
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "timeout": timedelta(seconds=TRANSFER_TIMEOUT_S),
        "pool_max_idle_per_host": str(CONNECTIONS),
    }
    if account.direct:
        options.update(_NO_PROXY)
    if endpoint.startswith("https:"):
        trusted = core.get_config_variable("ca_bundle") or botocore.httpsession.where()
        options["root_certificate"] = Path(trusted).read_bytes()
    return options


def _place(calls: Any, bucket: str) -> tuple[str, bool]:
    """Return where boto3 looks for a bucket, and whether it is told by the name of the host alone."""
    try:
        url = urlsplit(calls.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}))
    except NoCredentialsError:
        return calls.meta.endpoint_url, False  # nothing will be sent
    own = calls.meta.endpoint_url.rstrip("/")
    if url.netloc.startswith(f"{bucket}."):
        return own.replace("://", f"://{bucket}.", 1), True  # of the region; signed addresses name none
    return (own, False) if url.path.endswith(f"/{bucket}/k") else (f"{url.scheme}://{url.netloc}", True)


def _keys(session: Any, *, forever: bool) -> "S3CredentialProvider":
    """Return who tells obstore the keys that boto3 uses; those of the machine may change, so it asks again."""
    found = session.get_credentials()

    def told() -> "S3Credential":
        if found is None:
            raise LookupError(NO_KEYS)
        keys = found.get_frozen_credentials()  # renews what is about to run out
        expires_at = None if forever else datetime.now(UTC) + timedelta(seconds=KEYS_KNOWN_S)
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": expires_at,
        }

    return told
