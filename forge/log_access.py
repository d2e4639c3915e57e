"""How commands reach the log: through the node that runs here, the server in the settings, or one started for them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from nats.js.api import StreamInfo

from events.archive import Archive
from events.log import Log
from events.streams import STREAMS
from forge.datadir import DataDir, DataDirBusy, read_runtime
from forge.embedded import data_directory, nats
from forge.node import Addresses
from forge.object_storage import EmbeddedStore, archive
from schemas.ids import PartitionId
from schemas.settings import Settings


@dataclass(frozen=True, slots=True)
class LogAccess:
    """A log to read, and its archive if there is one. `exclusive` says that no node runs on the data directory."""

    log: Log
    exclusive: bool
    archive: Archive | None = None

    async def stream_info(self, name: str) -> StreamInfo:
        """Return what the server says of a stream, with its subjects."""
        jetstream = await self.log.reader.jetstream()
        return await jetstream.stream_info(name, subjects_filter=">")

    async def partitions(self) -> list[PartitionId]:
        """Return every partition that has records, in order of their names."""
        found: list[PartitionId] = []
        for stream in STREAMS:
            subjects = (await self.stream_info(stream.name)).state.subjects or {}
            found += [PartitionId.parse(subject) for subject in subjects]
        return sorted(found, key=lambda partition: partition.subject)


@asynccontextmanager
async def log_access(settings: Settings, *, exclusive: bool = False) -> AsyncIterator[LogAccess]:
    """Open the log of `settings` and its archive; with `exclusive`, raise `DataDirBusy` if a node runs there."""
    async with AsyncExitStack() as closing:
        runtime = read_runtime(settings.data_dir)
        if runtime is not None and not exclusive:
            url = runtime.read_url
            addresses = Addresses(url, url, url, url, runtime.monitor_url)
            embedded = EmbeddedStore.beside(settings.data_dir, runtime.s3_url) if runtime.s3_url else None
            alone = False
        else:
            if runtime is not None:
                raise DataDirBusy(settings.data_dir, runtime.pid)
            data = await closing.enter_async_context(data_directory(settings))
            addresses = await closing.enter_async_context(nats(settings, data))
            embedded = await own_object_store(settings, data, closing)
            alone = True
        archived = await closing.enter_async_context(archive(settings, embedded))
        log = addresses.open(archived)
        closing.push_async_callback(log.close)
        yield LogAccess(log, alone, archived)


@asynccontextmanager
async def archive_access(settings: Settings) -> AsyncIterator[Archive | None]:
    """Open the archive of `settings` alone, whether or not a node runs; None if there is none.

    The store of a data directory is that of the node which runs there, or is started; raise `DataDirBusy` then.
    """
    async with AsyncExitStack() as closing:
        runtime = read_runtime(settings.data_dir)
        embedded = None
        if runtime is not None:
            embedded = EmbeddedStore.beside(settings.data_dir, runtime.s3_url) if runtime.s3_url else None
        elif _has_store(settings):
            embedded = await own_object_store(
                settings, await closing.enter_async_context(data_directory(settings)), closing
            )
        yield await closing.enter_async_context(archive(settings, embedded))


async def own_object_store(settings: Settings, data: DataDir, closing: AsyncExitStack) -> EmbeddedStore | None:
    """Start the object store of the data directory, if it has one and the settings name no other."""
    if not _has_store(settings):
        return None
    from forge.stack.weed import Weed

    return EmbeddedStore.of(await closing.enter_async_context(Weed(data.path, inherit_fds=(data.lock_fd,))))


def _has_store(settings: Settings) -> bool:
    if settings.s3_bucket or not (settings.data_dir / "weed").exists():
        return False
    from forge.stack.weed import has_store

    return has_store(settings.data_dir)
