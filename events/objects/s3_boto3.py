"""What boto3 does for a bucket of S3 and knows about it: 20 MiB, which are loaded when it is first asked."""

from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from botocore.exceptions import NoCredentialsError

from events.objects.s3_account import CONNECT_TIMEOUT_S, CONNECTIONS, Account, Place


class _Loaded(NamedTuple):
    core: Any
    session: Any
    client: Any


class Boto3:
    """The boto3 of one account. Calls block, the first one for the time that it takes to load."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._loading = Lock()
        self._loaded: _Loaded | None = None

    @property
    def loaded(self) -> bool:
        """Whether it was asked for anything yet."""
        return self._loaded is not None

    @property
    def client(self) -> Any:
        """The client for S3, which repeats no request by itself."""
        return self._load().client

    def credentials(self) -> Any:
        """Return who renews the keys of the account or the machine, None if there are none."""
        return self._load().session.get_credentials()

    def ca_bundle(self) -> Any:
        """Return the path of the file that says whom to trust, None if nothing does."""
        return self._load().core.get_config_variable("ca_bundle")

    def place(self, bucket: str) -> Place:
        """Return where it looks for a bucket."""
        own = self.client.meta.endpoint_url.rstrip("/")
        try:
            url = urlsplit(self.client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}))
        except NoCredentialsError:
            return Place(own, in_host=False)  # nothing will be sent
        if url.netloc.startswith(f"{bucket}."):  # of the region; signed addresses name none
            return Place(own.replace("://", f"://{bucket}.", 1), in_host=True)
        in_path = url.path.endswith(f"/{bucket}/k")
        return Place(own if in_path else f"{url.scheme}://{url.netloc}", in_host=not in_path)

    def close(self) -> None:
        """Let go of connections, if there can be any."""
        with self._loading:
            if self._loaded is not None:
                self._loaded.client.close()

    def _load(self) -> _Loaded:
        with self._loading:
            if self._loaded is None:
                self._loaded = _load(self._account)
            return self._loaded


def _load(account: Account) -> _Loaded:
    import botocore.session
    from boto3.session import Session
    from botocore.config import Config

    config = Config(
        s3={"addressing_style": "path" if account.path_style else "auto"},
        retries={"total_max_attempts": 1},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=account.read_timeout_s,
        max_pool_connections=CONNECTIONS,
        proxies={} if account.direct else None,
    )
    core = botocore.session.get_session()
    session = Session(region_name=account.region, botocore_session=core, **account.credentials)
    return _Loaded(core, session, session.client("s3", endpoint_url=account.endpoint_url or None, config=config))
