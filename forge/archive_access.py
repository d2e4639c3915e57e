"""How commands reach the archive: the bucket of the settings, or the store of a data directory, started if it must be.

Apart from `forge.log_access`, which imports all of a node.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from events.archive import Archive
from forge.datadir import DataDir, Runtime, data_directory, read_runtime
from forge.object_storage import EmbeddedStore, archive
from schemas.settings import Settings


@asynccontextmanager
async def archive_access(settings: Settings) -> AsyncIterator[Archive | None]:
    """Open the archive of `settings` alone, whether or not a node runs; None if there is none.

    The store of a data directory is that of the node which runs there, or is started; raise `DataDirBusy` then.
    """
    async with AsyncExitStack() as closing:
        runtime = read_runtime(settings.data_dir)
        embedded = None
        if runtime is not None:
            embedded = store_beside(settings, runtime)
        elif _has_store(settings):
            embedded = await own_object_store(
                settings, await closing.enter_async_context(data_directory(settings.data_dir)), closing
            )
        yield await closing.enter_async_context(archive(settings, embedded))


def store_beside(settings: Settings, runtime: Runtime) -> EmbeddedStore | None:
    """Return the object store that the node of `runtime` has started, if it has and the settings name no other."""
    if settings.s3_bucket or not runtime.s3_url:
        return None
    return EmbeddedStore.beside(settings.data_dir, runtime.s3_url)


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
