"""How commands about keys reach the object store: as it is, without a log, whether a node runs or not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from events.archive import Archive
from events.objects.age import Identity
from events.objects.keyring import Keyring
from events.objects.port import ObjectStore
from forge.archive_access import own_object_store, store_beside
from forge.daemon.place import daemon_prefix
from forge.datadir import DataDir, DataDirBusy, data_directory, read_runtime
from forge.key_files import KeyFiles, key_settings
from forge.object_storage import EmbeddedStore, archive, object_store
from forge.takeover import first_epoch
from forge.writer_lease import writer_lease
from schemas.settings import Settings

LEASE_WAITS = 2  # so many times as long as a lease lasts: that of a node that died has ended by then


class NoObjectStore(Exception):
    """Neither the settings nor the data directory name an object store."""


class DaemonsArchive(Exception):
    """What is archived from here is below another prefix: that of `forge replicate daemon`, `prefix`."""

    def __init__(self, settings: Settings, prefix: str) -> None:
        super().__init__(f"what the daemon here archives is below {prefix}/, not {settings.s3_prefix}/")
        self.prefix = prefix


class AnotherWrites(Exception):
    """Another node writes below the prefix."""


@dataclass(frozen=True, slots=True)
class KeyAccess:
    """An object store that neither encrypts nor decrypts, and the keys of what lies below `prefix` of it."""

    store: ObjectStore
    name: str
    prefix: str
    keyring: Keyring
    settings: Settings
    data: DataDir | None = None
    embedded: EmbeddedStore | None = None

    def again(self) -> "KeyAccess":
        """Return the same with the key files as they are now."""
        return replace(self, keyring=Keyring(self.store, self.settings.s3_prefix, key_settings(self.settings)))

    def identities(self) -> list[Identity]:
        """Return the private keys that are here; raise `KeyRefused`."""
        return list(KeyFiles(self.settings).identities(False))

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Be the writer inside of the block; raise `DataDirBusy` if a node runs here, `AnotherWrites` if elsewhere."""
        if self.data is None:
            runtime = read_runtime(self.settings.data_dir)
            raise DataDirBusy(self.settings.data_dir, runtime.pid if runtime else None)
        async with (
            archive(self.settings, self.embedded) as opened,
            writer_lease(self.settings, self.data, self.embedded, partial(self._first_epoch, opened)) as lease,
        ):
            if lease is not None:
                try:
                    async with asyncio.timeout(LEASE_WAITS * self.settings.lease_duration_s):
                        await lease.acquire()
                except TimeoutError:
                    by = f"by {lease.holder.node} ({lease.holder.owner_id})" if lease.holder else lease.trouble
                    raise AnotherWrites(f"{self.prefix} is written {by}") from None
            yield

    async def _first_epoch(self, opened: Archive | None, here: int) -> int:
        return here if opened is None else await first_epoch(self.settings, opened, here)


@asynccontextmanager
async def key_access(settings: Settings, *, hold: bool = False) -> AsyncIterator[KeyAccess]:
    """Open the object store; with `hold`, hold the data directory meanwhile, unless a node runs there.

    Raise `NoObjectStore`, and `DaemonsArchive`.
    """
    async with AsyncExitStack() as closing:
        runtime = read_runtime(settings.data_dir)
        data = embedded = None
        if runtime is not None:
            embedded = store_beside(settings, runtime)
        elif hold or not settings.s3_bucket:
            data = await closing.enter_async_context(data_directory(settings.data_dir))
            embedded = await own_object_store(settings, data, closing)
        opened = await closing.enter_async_context(object_store(settings, embedded))
        if opened is None:
            raise NoObjectStore(f"neither FORGE_S3_BUCKET nor {settings.data_dir} names an object store")
        await _check_prefix(settings, opened.store)
        keyring = Keyring(opened.store, settings.s3_prefix, key_settings(settings))
        yield KeyAccess(opened.store, opened.name, f"{settings.s3_prefix}/", keyring, settings, data, embedded)


async def _check_prefix(settings: Settings, store: ObjectStore) -> None:
    of_daemon = settings.snapshot_db.exists() and not settings.control_db.exists()
    if not of_daemon and await store.list(f"{settings.s3_prefix}/log/", limit=1):
        return
    below = daemon_prefix(settings)
    if await store.list(f"{below}/", limit=1):
        raise DaemonsArchive(settings, below)
