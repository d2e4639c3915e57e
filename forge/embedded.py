"""Everything on one machine: the data directory, the children, and the node, from start to stop."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from events.archive import Archive
from events.write_guard import ALWAYS_OPEN
from forge.datadir import DataDir, data_directory, root_token
from forge.key_files import key_settings
from forge.node import Addresses, Node
from forge.object_storage import EmbeddedStore, archive, check_store
from forge.roles import Parts, Roles
from forge.stack.builtin_worker import BuiltinWorker
from forge.stack.nats import NatsServer
from forge.takeover import first_epoch
from forge.writer_lease import writer_lease
from schemas.settings import Settings
from schemas.vector import KINDS, Kind


@dataclass(frozen=True, slots=True)
class Running:
    """A node that serves. `why_not` is why it takes no writes yet."""

    url: str
    s3_url: str | None
    why_not: str | None = None


@asynccontextmanager
async def nats(settings: Settings, data: DataDir) -> AsyncIterator[Addresses]:
    """Give the addresses of the log: of the server in the settings, else of one started here as a child."""
    if settings.nats_url.get_secret_value():
        yield Addresses.from_settings(settings)
        return
    server = NatsServer(data.path, file_store_bytes=settings.log_bytes_max, inherit_fds=(data.lock_fd,))
    async with server:
        yield Addresses.of(server)


@asynccontextmanager
async def running(settings: Settings, *, listen: str, s3: bool = False, embed: bool = True) -> AsyncIterator[Running]:
    """Run a node on this machine: what the settings do not name is started as a child.

    With `s3`, or a bucket in the settings, the log is archived. `embed` says whether it calls embedding workers;
    without a worker URL the built-in one is started. Whatever ends this ends all children.
    """
    key_settings(settings)  # recipients that are none are told before anything is started
    async with AsyncExitStack() as closing:
        data = await closing.enter_async_context(data_directory(settings.data_dir))
        token = root_token(data.path)
        urls: dict[Kind, str] = {kind: settings.worker_url(kind) for kind in KINDS} if embed else {}
        builtin = BuiltinWorker(data.path, inherit_fds=(data.lock_fd,)) if embed and not all(urls.values()) else None
        weed = None
        if s3 and not settings.s3_bucket:
            from forge.stack.weed import Weed  # with it comes boto3, which a node without S3 shall not pay for

            weed = Weed(data.path, inherit_fds=(data.lock_fd,))
        else:
            await check_store(settings)  # who cannot read what is there must not become its writer
        children = [child for child in (builtin, weed) if child is not None]
        addresses, *_ = await _all([nats(settings, data), *children], closing)
        if builtin:
            urls = {kind: url or builtin.url for kind, url in urls.items()}
        embedded = EmbeddedStore.of(weed) if weed else None
        if embedded:
            await check_store(settings, embedded)
        opened: Archive | None = None

        async def epoch(here: int) -> int:
            assert opened is not None, "the archive is opened before the lease is acquired"
            return await first_epoch(settings, opened, here)

        lease = await closing.enter_async_context(writer_lease(settings, data, embedded, epoch))
        guard = lease.guard if lease else ALWAYS_OPEN
        opened = await closing.enter_async_context(archive(settings, embedded, guard))
        node: Node | Roles = Node(settings, addresses, token=token, listen=listen, worker_urls=urls)
        if lease is not None and opened is not None:
            node = Roles(Parts(settings, addresses, token, listen, urls, opened, lease))
        await closing.enter_async_context(node)
        s3_url = weed.s3_url if weed else ""
        why_not = node.why_not if isinstance(node, Roles) else None
        data.publish(node.url, settings.node_id, addresses.monitor, addresses.reader, addresses.client, s3_url)
        yield Running(node.url, s3_url or None, why_not)


async def _all(contexts: Sequence[AbstractAsyncContextManager[Any]], closing: AsyncExitStack) -> list[Any]:
    """Enter all contexts at the same time, since each waits for a process to become ready."""
    try:
        async with asyncio.TaskGroup() as group:
            entering = [group.create_task(closing.enter_async_context(context)) for context in contexts]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in entering]
