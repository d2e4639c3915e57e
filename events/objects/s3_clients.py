"""How to reach a bucket of S3: obstore carries its bytes, lists are signed here, boto3 does and knows the rest."""

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import obstore.store
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session, where
from botocore.utils import check_dns_name, get_environ_proxies, is_valid_endpoint_url, validate_region_name
from obstore.exceptions import BaseError

from events.objects.errors import StoreRefused
from events.objects.s3_account import CONNECT_TIMEOUT_S, CONNECTIONS, Account, Place
from events.objects.s3_boto3 import Boto3
from events.objects.s3_errors import NO_KEYS
from events.objects.s3_lists import Keys, Lists
from schemas.setting_problems import URL_PATTERN

if TYPE_CHECKING:  # it has these types only there
    from obstore.store import ClientConfig, S3Config, S3Credential, S3CredentialProvider

BULK_BYTES = 64 << 10  # obstore counts the sending of a body as waiting for the answer: what is longer gets
BULK_TIMEOUT_S = 120.0
TRANSFER_TIMEOUT_S = 600.0  # of one request that obstore makes, however busy its connection is
KEYS_KNOWN_S = 360.0  # obstore asks again when less than 300 s are left of what it was told
CA_BUNDLE = "AWS_CA_BUNDLE"
_SETTLED = {
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"),
    CA_BUNDLE,  # heeded here too
}
"""What of the environment of the AWS tools means nothing where keys and region are given."""
_NO_PROXY: "ClientConfig" = {"proxy_url": "http://127.0.0.1:9", "proxy_excludes": "*,0.0.0.0/0,::/0"}
"""obstore can be told of a proxy for nobody, not of none: then it takes that of the environment."""


class Clients(NamedTuple):
    """Ways to one bucket, none of which repeats a request by itself."""

    data: obstore.store.S3Store
    bulk: obstore.store.S3Store
    """For bodies of more than `BULK_BYTES`."""
    lists: Lists
    boto3: Boto3

    def close(self) -> None:
        """Let go of connections; those of obstore end with it."""
        self.lists.close()
        self.boto3.close()


def s3_clients(account: Account, bucket: str) -> Clients:
    """Return the clients of a bucket, which the caller closes; raise `StoreRefused` if there cannot be any."""
    try:
        return _clients(account, bucket)
    except (BotoCoreError, BaseError, OSError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise StoreRefused(f"S3 cannot be asked with these settings: {why}") from error


def _clients(account: Account, bucket: str) -> Clients:
    validate_region_name(account.region)
    boto3 = Boto3(account)
    plain = _is_plain(account, bucket)
    place = Place(account.endpoint_url.rstrip("/"), in_host=False) if plain else boto3.place(bucket)
    trusted = os.environ.get(CA_BUNDLE) if plain else boto3.ca_bundle()
    keys = _keys(account, boto3)
    region = bucket.split(":")[3] if bucket.startswith("arn:") else account.region
    # All of this is said, also what is the default: else obstore takes it from AWS_* in the environment.
    config: S3Config = {
        "endpoint": place.endpoint,
        "aws_endpoint_url_s3": place.endpoint,
        "region": region,
        "virtual_hosted_style_request": place.in_host,
        "conditional_put": "etag",
        "checksum_algorithm": "SHA256",  # SeaweedFS does not compare the hash that is signed
        "unsigned_payload": False,
        "skip_signature": False,
        "s3_express": False,
        "request_payer": False,
        "disable_bulk_delete": True,
    }
    options, told = _options(account, place, trusted), _told(keys, forever=bool(account.credentials))

    def client(read_timeout_s: float) -> obstore.store.S3Store:
        return obstore.store.S3Store(
            bucket,
            config=config,
            client_options=options | {"read_timeout": timedelta(seconds=read_timeout_s)},
            retry_config={"max_retries": 0, "retry_timeout": timedelta()},
            credential_provider=told,
        )

    return Clients(
        client(account.read_timeout_s),
        client(max(account.read_timeout_s, BULK_TIMEOUT_S)),
        Lists(place.url(bucket), region, keys, _http(account, place, trusted)),
        boto3,
    )


def _is_plain(account: Account, bucket: str) -> bool:
    """Say whether a bucket is in the path of the address that is given, and nothing is left for boto3 to decide.

    What is said to the AWS tools on this machine, it heeds or refuses: then it is asked at once.
    """
    url = account.endpoint_url
    return (
        bool(account.credentials and url)
        and bool(re.match(URL_PATTERN, url) and is_valid_endpoint_url(url))
        and "amazonaws.com" not in url
        and check_dns_name(bucket)
        and "--" not in bucket  # of a kind of its own
        and not any(name.startswith("AWS_") for name in os.environ.keys() - _SETTLED)
        and not os.path.exists(os.path.expanduser("~/.aws"))
    )


def _options(account: Account, place: Place, trusted: str | None) -> "ClientConfig":
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
    if place.endpoint.startswith("https:"):
        options["root_certificate"] = Path(trusted or where()).read_bytes()
    return options


def _http(account: Account, place: Place, trusted: str | None) -> URLLib3Session:
    """Return the connections of lists, made as boto3 makes its own."""
    return URLLib3Session(
        verify=trusted or os.environ.get("REQUESTS_CA_BUNDLE") or True,
        proxies={} if account.direct else get_environ_proxies(place.endpoint),
        timeout=(CONNECT_TIMEOUT_S, account.read_timeout_s),
        max_pool_connections=CONNECTIONS,
    )


def _keys(account: Account, boto3: Boto3) -> Callable[[], Keys]:
    """Return who knows the keys: those that are given, else those of the machine, which may change."""
    if account.credentials:
        given = account.credentials
        own = Keys(given["aws_access_key_id"], given["aws_secret_access_key"], given.get("aws_session_token"))
        return lambda: own
    found = boto3.credentials()

    def keys() -> Keys:
        if found is None:
            raise StoreRefused(NO_KEYS)
        frozen = found.get_frozen_credentials()  # renews what is about to run out
        return Keys(frozen.access_key, frozen.secret_key, frozen.token)

    return keys


def _told(keys: Callable[[], Keys], *, forever: bool) -> "S3CredentialProvider":
    """Return who tells obstore the keys, and that it asks again unless they stay."""

    def told() -> "S3Credential":
        access_key, secret_key, token = keys()
        expires_at = None if forever else datetime.now(UTC) + timedelta(seconds=KEYS_KNOWN_S)
        return {"access_key_id": access_key, "secret_access_key": secret_key, "token": token, "expires_at": expires_at}

    return told
