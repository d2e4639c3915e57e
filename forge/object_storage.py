"""The object store of a node: that of the settings, or SeaweedFS started here."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import structlog

from events.archive import Archive
from events.objects.errors import CorruptObject, KeyRefused, StoreRefused, StoreUnavailable
from events.objects.guarded import GuardedStore
from events.objects.keyring import Keyring, named
from events.objects.port import ObjectStore
from events.objects.retrying import RetryingStore
from events.objects.sealed import SealedStore
from events.staging import sweep
from events.write_guard import ALWAYS_OPEN, WriteGuard
from forge.key_files import key_settings
from forge.lease_place import LeasePlace
from schemas.encryption import RecipientsRecord
from schemas.settings import InvalidSettings, Settings

if TYPE_CHECKING:  # with them come obstore and boto3, which a node without S3 shall not pay for
    from events.objects.s3 import S3Store
    from forge.stack.weed import Weed

EMBEDDED_BUCKET = "forge"
SEALING = "sealing"  # folder below the cache
ADMIT_S = 3.0  # that a start may wait for the store to say for whom it is encrypted

log = structlog.get_logger(__name__)


class EmbeddedStore(NamedTuple):
    """Where the SeaweedFS of a data directory listens, and its keys."""

    url: str
    access_key: str
    secret_key: str

    @classmethod
    def of(cls, weed: "Weed") -> Self:
        """Return the place of one that was started here."""
        return cls(weed.s3_url, weed.access_key, weed.secret_key)

    @classmethod
    def beside(cls, data: Path, url: str) -> Self:
        """Return the place of one that another process has started on `data`."""
        from forge.stack.weed import read_keys

        return cls(url, *read_keys(data))

    def __repr__(self) -> str:
        return f"EmbeddedStore({self.url!r})"  # without its keys, wherever it may be shown


@asynccontextmanager
async def archive(
    settings: Settings, embedded: EmbeddedStore | None = None, guard: WriteGuard = ALWAYS_OPEN
) -> AsyncIterator[Archive | None]:
    """Give the archive of a node: in the `embedded` store, else in the bucket of the settings; None without either.

    Nothing is changed there while `guard` is closed. Raise `KeyRefused` if it is encrypted and the key here does not
    open it, as far as the store can be asked now.
    """
    async with object_store(settings, embedded, guard) as opened:
        if opened is None:
            yield None
            return
        keyring = Keyring(opened.store, settings.s3_prefix, key_settings(settings))
        await _admitted(keyring)
        temp = await asyncio.to_thread(_swept, settings.cache_dir / SEALING)
        store = SealedStore(opened.store, keyring, temp)
        yield Archive(store, settings.s3_prefix, f"{opened.name}, below {settings.s3_prefix}/")


async def check_store(settings: Settings, embedded: EmbeddedStore | None = None) -> None:
    """Raise `StoreRefused` if a node of these settings could not read or write the archive, before anything is done.

    A store that is away is waited for, and so is one that refuses where this data directory has used it before: then
    what is here can still be read. Keys that are wrong for what it holds are `KeyRefused` in any case.
    """
    async with object_store(settings, embedded) as opened:
        if opened is None:
            return
        keyring = Keyring(opened.store, settings.s3_prefix, key_settings(settings))
        used = (await LeasePlace(settings.data_dir).load()).store == opened.name
        record = await _admitted(keyring, KeyRefused if used else StoreRefused)
        if record is not None and not settings.recipients:
            readers = named(record.current.recipients)
            fix = "set FORGE_RECIPIENTS as the node had it that wrote there"
            raise KeyRefused(f"the archive is encrypted for {readers}, and FORGE_RECIPIENTS is not set", fix)


class OpenedStore(NamedTuple):
    """A store that neither encrypts nor decrypts, and its name for people."""

    store: ObjectStore
    name: str


@asynccontextmanager
async def object_store(
    settings: Settings, embedded: EmbeddedStore | None = None, guard: WriteGuard = ALWAYS_OPEN
) -> AsyncIterator[OpenedStore | None]:
    """Give the store of a node as it is, without encryption: to look at what is there, and to keep keys."""
    async with raw_store(settings, embedded) as opened:
        if opened is not None:
            opened = OpenedStore(RetryingStore(GuardedStore(opened.store, guard)), opened.name)
        yield opened


@asynccontextmanager
async def raw_store(settings: Settings, embedded: EmbeddedStore | None = None) -> AsyncIterator[OpenedStore | None]:
    """Give the store without patience, with connections and threads of its own."""
    if embedded is None and not settings.s3_bucket:
        yield None
        return
    opened = partial(_embedded, embedded) if embedded else partial(_configured, settings)
    store, name = await asyncio.to_thread(opened)
    try:
        if embedded is not None:
            await store.make_bucket()
        yield OpenedStore(store, name)
    finally:
        await store.close()


async def _admitted(keyring: Keyring, final: type[StoreRefused] = KeyRefused) -> RecipientsRecord | None:
    """Raise what is `final`, such as that the key here is the wrong one; else the store is asked again when used."""
    try:
        async with asyncio.timeout(ADMIT_S):
            return await keyring.admit()
    except final:
        raise
    except (StoreUnavailable, CorruptObject, TimeoutError) as error:
        reason = str(error) or f"the object store does not answer within {ADMIT_S:g} s"
        log.warning("nobody knows yet whether the archive can be opened", reason=reason)
        return None


def _swept(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep(folder)
    return folder


def _embedded(embedded: EmbeddedStore) -> tuple["S3Store", str]:
    """Return the embedded store, whose bucket may be missing, and its name."""
    from events.objects.s3 import S3Store
    from events.objects.s3_account import Account
    from events.objects.s3_clients import s3_clients
    from forge.stack.weed import REGION

    keys = {"aws_access_key_id": embedded.access_key, "aws_secret_access_key": embedded.secret_key}
    clients = s3_clients(Account(embedded.url, REGION, keys, path_style=True, direct=True), EMBEDDED_BUCKET)
    return S3Store(clients, EMBEDDED_BUCKET), f"bucket {EMBEDDED_BUCKET} of {embedded.url}"


def _configured(settings: Settings) -> tuple["S3Store", str]:
    from events.objects.s3 import S3Store
    from events.objects.s3_account import Account
    from events.objects.s3_clients import s3_clients

    account = Account(
        settings.s3_endpoint_url,
        settings.s3_region,
        _credentials(settings),
        path_style=settings.s3_force_path_style,
    )
    where = f" of {settings.s3_endpoint_url}" if settings.s3_endpoint_url else ""
    return S3Store(s3_clients(account, settings.s3_bucket), settings.s3_bucket), f"bucket {settings.s3_bucket}{where}"


def _credentials(settings: Settings) -> Mapping[str, str]:
    """Return the keys of the settings, named as boto3 names them; nothing: it looks for itself."""
    found = {
        "aws_access_key_id": settings.s3_access_key_id.get_secret_value(),
        "aws_secret_access_key": settings.s3_secret_access_key.get_secret_value(),
        "aws_session_token": settings.s3_session_token.get_secret_value(),
    }
    keys = {name: value for name, value in found.items() if value}
    if keys and not (found["aws_access_key_id"] and found["aws_secret_access_key"]):  # a token goes with both
        raise InvalidSettings(["FORGE_S3_ACCESS_KEY_ID and FORGE_S3_SECRET_ACCESS_KEY belong together: set both"])
    return keys
