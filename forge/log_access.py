"""How commands reach the log: through the node that runs here, the server in the settings, or one started for them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from nats.js.api import StreamInfo

from events.archive import Archive
from events.log import Log
from events.streams import STREAMS
from forge.archive_access import own_object_store
from forge.datadir import DataDirBusy, data_directory, read_runtime
from forge.embedded import nats
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
            data = await closing.enter_async_context(data_directory(settings.data_dir))
            addresses = await closing.enter_async_context(nats(settings, data))
            embedded = await own_object_store(settings, data, closing)
            alone = True
        archived = await closing.enter_async_context(archive(settings, embedded))
        log = addresses.open(archived)
        closing.push_async_callback(log.close)
        yield LogAccess(log, alone, archived)
