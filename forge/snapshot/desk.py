"""Where commands about snapshots go: to whatever runs on the data directory, else to a log opened for them alone."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from events.archive import Archive
from events.streams import ensure_streams
from forge import object_storage
from forge.client.errors import NodeUnreachable
from forge.client.nats import NatsPublisher
from forge.client.transport import problem_from
from forge.daemon.place import daemon_settings
from forge.datadir import Runtime, read_root_token, read_runtime
from forge.domains import own_domain
from forge.log_access import LogAccess, log_access
from forge.object_storage import EmbeddedStore
from projectors.node.domain import DOMAIN, node_partition
from projectors.partitions import Partitions
from projectors.projection import connect
from schemas.facts import Command
from schemas.node import CatchUp
from schemas.problems import Refusal
from schemas.settings import Settings

OPEN_WAIT_S = 60.0  # a log that was left behind is folded first
COMMAND_TIMEOUT_S = 30.0
PRINCIPAL = "root"

Submit = Callable[[Command], Awaitable[Any]]
OpenArchive = Callable[[], AbstractAsyncContextManager[Archive | None]]


class NotReached(Exception):
    """No command can be decided; the message says why, `fix` what to do."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Desk:
    """`submit` has a command decided and returns its answer; raises `ForgeError`, `NotReached`.

    `archive` opens the archive of this log, which nothing is changed in, None if there is none.
    """

    settings: Settings
    submit: Submit
    archive: OpenArchive

    def snapshots(self) -> "closing[apsw.Connection]":
        """Open `snapshot.db` to read it."""
        return closing(connect(self.settings.snapshot_db, readonly=True))

    def refs(self) -> "closing[apsw.Connection]":
        """Open `refs.db` to read it."""
        return closing(connect(self.settings.refs_db, readonly=True))

    @property
    def own_files(self) -> tuple[Path, ...]:
        """What belongs to Forge and to no snapshot."""
        settings = self.settings
        databases = [
            Path(f"{db}{end}") for db in (settings.snapshot_db, settings.refs_db) for end in ("", "-wal", "-shm")
        ]
        return (settings.data_dir, settings.cache_dir, *databases)


@asynccontextmanager
async def desk(settings: Settings) -> AsyncIterator[Desk]:
    """Open the partition of this node, with everything folded that its log holds."""
    away: NotReached | None = None
    async with AsyncExitStack() as opened:
        runtime = read_runtime(settings.data_dir)
        if runtime is not None:
            submit = await _through(runtime, settings, opened)
            try:
                await submit(CatchUp())
            except NotReached as error:  # a standby decides nothing, and what it has can be read
                away = error
            archive = partial(_archive_beside, settings, runtime)
        else:
            access = await opened.enter_async_context(log_access(settings, exclusive=True))
            submit = await _alone(settings, access, opened)
            archive = partial(nullcontext, access.archive)
        if not settings.snapshot_db.exists():
            why = f"{settings.snapshot_db} is not there"
            raise away or NotReached(why, "give the node and this command the same settings")
        yield Desk(settings, submit, archive)


async def _through(runtime: Runtime, settings: Settings, opened: AsyncExitStack) -> Submit:
    url = runtime.client_url or settings.nats_live_url.get_secret_value() or settings.nats_url.get_secret_value()
    if not url:
        why = "the node on this data directory uses a NATS server that is not known here"
        raise NotReached(why, "set FORGE_NATS_URL as for the node")
    token = settings.token.get_secret_value() or read_root_token(settings.data_dir)
    publisher = await opened.enter_async_context(NatsPublisher(url, token))
    partition = node_partition(runtime.node_id)

    async def submit(command: Command) -> Any:
        try:
            answer, _ = await publisher.submit(partition, type(command).__name__, command.model_dump(mode="json"))
        except NodeUnreachable as error:
            why = f"what runs on {settings.data_dir} takes no commands now: {error.why}"
            raise NotReached(why, "a standby takes none, and `forge status` says who writes; else try again") from error
        return answer

    return submit


def _archive_beside(settings: Settings, runtime: Runtime) -> AbstractAsyncContextManager[Archive | None]:
    """Return the archive of the node, or of the daemon, that runs on the data directory."""
    if runtime.s3_url:
        return object_storage.archive(settings, EmbeddedStore.beside(settings.data_dir, runtime.s3_url))
    if settings.s3_bucket and not runtime.url:
        settings = daemon_settings(settings)
    return object_storage.archive(settings)


async def _alone(settings: Settings, access: LogAccess, opened: AsyncExitStack) -> Submit:
    await ensure_streams(await access.log.admin.jetstream(), settings.nats_replicas)
    domain = own_domain(settings)
    partitions = Partitions(access.log, {DOMAIN: domain}, node=settings.node_id, idle_s=settings.partition_idle_s)
    opened.push_async_callback(partitions.close)
    partition = node_partition(settings.node_id)
    try:
        await partitions[partition].ready(OPEN_WAIT_S)
    except Refusal as refusal:
        raise problem_from(refusal.problem.status, refusal.problem.body()) from None

    async def submit(command: Command) -> Any:
        if settings.s3_bucket:
            why = "the log of this data directory is archived, and who may write it is not known while nothing runs"
            raise NotReached(why, "start `forge up` or `forge replicate daemon`, and run the command again")
        try:
            decided = partitions.submit(partition, command, principal=PRINCIPAL, timeout_s=COMMAND_TIMEOUT_S)
            return (await decided).value
        except Refusal as refusal:
            raise problem_from(refusal.problem.status, refusal.problem.body()) from None

    return submit
