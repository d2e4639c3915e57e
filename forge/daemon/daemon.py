"""The daemon: the log and the partition of this node, commands from here, and what uploads it all."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import structlog

from api.auth import Access
from api.door import CommandDoor
from events.archive import Archive
from events.backoff import delay
from events.errors import LogError
from events.objects.errors import StoreError
from events.streams import ensure_streams
from forge.daemon.place import daemon_settings, reloaded
from forge.daemon.status import FILE, DaemonStatus, write_status
from forge.daemon.uploading import Uploading
from forge.datadir import DataDir, data_directory, root_token
from forge.domains import own_domain
from forge.embedded import nats
from forge.lease_place import LeasePlace
from forge.lease_report import LeaseReport
from forge.node import Addresses
from forge.object_storage import archive, check_store
from forge.process_id import ProcessId
from forge.takeover import first_epoch
from forge.writer_lease import writer_lease
from projectors.node.domain import DOMAIN, node_partition
from projectors.partitions import Partitions
from projectors.tasks import end
from schemas.instants import now
from schemas.problems import Refusal
from schemas.settings import InvalidSettings, Settings
from workers.lease.errors import LeaseError

OPEN_WAIT_S = 60.0
AGAIN_S, AGAIN_MAX_S = 0.5, 30.0  # between two openings
STATUS_EVERY_S = 1.0
STATUS_BUSY_S = 10.0
STATUS_QUIET_S = 30.0  # the store is asked so often while nothing changes
PARTITIONS_MAX = 1000  # in the status

log = structlog.get_logger(__name__)


class Daemon:
    """Runs on a data directory that is this process's own, with the NATS server at `addresses`, by `async with`.

    `load` reads the settings again, at SIGHUP.
    """

    def __init__(self, settings: Settings, data: DataDir, addresses: Addresses, load: Callable[[], Settings]) -> None:
        self.settings = settings
        self._data = data
        self._addresses = addresses
        self._load = load
        self._again = asyncio.Event()
        self._opened = AsyncExitStack()
        self._supervisor: asyncio.Task[None] | None = None
        self._uploading: Uploading | None = None
        self._rng = random.Random()

    @property
    def trouble(self) -> str:
        """Why nothing is stored now, empty if it is."""
        return self._uploading.trouble if self._uploading else ""

    async def __aenter__(self) -> "Daemon":
        await self._open(self.settings)
        self._supervisor = asyncio.create_task(self._supervise(), name="daemon")
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        if self._supervisor is not None:
            await end(self._supervisor)
        try:
            async with asyncio.timeout(self.settings.shutdown_s):
                await self._opened.aclose()
        except TimeoutError:
            log.warning("stopped before everything was stored; the rest follows at the next start")
        (self._data.path / FILE).unlink(missing_ok=True)

    def _reload(self) -> None:
        try:
            self.settings, kept = reloaded(self.settings, self._load())
        except InvalidSettings as error:
            log.error("settings not read again", reason=str(error))
            return
        if kept:
            log.warning("settings that only a restart changes stay as they were", settings=kept)
        log.info("settings read again")
        self._again.set()

    async def _supervise(self) -> None:
        """Open everything anew whenever that is wanted; with settings that cannot be used, as it was before."""
        working, failures = self.settings, 0
        while True:
            await self._again.wait()
            self._again.clear()
            try:
                await self._opened.aclose()
                await asyncio.sleep(
                    delay(failures + 1, base_s=AGAIN_S, cap_s=AGAIN_MAX_S, rng=self._rng, min_s=AGAIN_S)
                )
                await self._open(self.settings)
                working, failures = self.settings, 0
            except Exception as error:
                expected = isinstance(error, StoreError | LeaseError | LogError | InvalidSettings | Refusal)
                (log.error if expected else log.exception)("not opened", reason=str(error))
                self.settings, failures = working, failures + 1
                self._again.set()

    async def _open(self, settings: Settings) -> None:
        """Open everything, to be closed by `_opened`: the door first, the lease last."""
        self._opened = opened = AsyncExitStack()
        try:
            await check_store(settings)
            store: Archive | None = None

            async def epoch_of(here: int) -> int:
                assert store is not None, "the archive is opened before the lease is acquired"
                return await first_epoch(settings, store, here)

            lease = await opened.enter_async_context(writer_lease(settings, self._data, None, epoch_of))
            assert lease is not None, "daemon_settings demands a bucket"
            store = await opened.enter_async_context(archive(settings, None, lease.guard))
            assert store is not None
            event_log = self._addresses.open(store)
            opened.push_async_callback(event_log.close)
            await ensure_streams(await event_log.admin.jetstream(), settings.nats_replicas)
            uploading = self._uploading = Uploading(settings, lease, store, event_log, self._again.set)
            epoch = await uploading.begin(max(1, (await LeasePlace(self._data.path).load()).epoch))
            opened.push_async_callback(uploading.give_back)
            running = await opened.enter_async_context(AsyncExitStack())
            task = asyncio.create_task(uploading.run(running), name="uploading")
            opened.push_async_callback(end, task)
            partitions = Partitions(
                event_log,
                {DOMAIN: own_domain(settings)},
                node=settings.node_id,
                idle_s=settings.partition_idle_s,
                epoch=epoch,
                guard=uploading.local,
            )
            opened.push_async_callback(partitions.close)
            await partitions[node_partition(settings.node_id)].ready(OPEN_WAIT_S)
            door = CommandDoor(self._addresses.live, partitions, Access(root_token(self._data.path)))
            await door.start()
            opened.push_async_callback(door.stop)
            told = asyncio.create_task(self._tell(uploading, LeaseReport(lease), store.name), name="status")
            opened.push_async_callback(end, told)
        except BaseException:
            await opened.aclose()
            raise

    async def _tell(self, uploading: Uploading, leasing: LeaseReport, name: str) -> None:
        """Write the status again and again; the store is asked when something has changed, or now and then."""
        loop = asyncio.get_running_loop()
        before: object = None
        changed_at = asked_at = loop.time()
        while True:
            with suppress(LogError, OSError, Refusal):
                seen = (await uploading.look(), _known(leasing))
                if seen != before:
                    before, changed_at = seen, loop.time()
                busy = loop.time() - changed_at < STATUS_BUSY_S  # generations follow what was archived
                if busy or loop.time() - asked_at > STATUS_QUIET_S:
                    status = await self._status(uploading, leasing, name)
                    await asyncio.to_thread(write_status, self._data.path, status)
                    asked_at = loop.time()
            await asyncio.sleep(STATUS_EVERY_S)

    async def _status(self, uploading: Uploading, leasing: LeaseReport, name: str) -> DaemonStatus:
        said = DaemonStatus(
            process=ProcessId.current(),
            node=self.settings.node_id,
            at=now(),
            archive=name,
            waits_for=uploading.trouble,
            lease=leasing.status(),
        )
        if uploading.service is None:
            return said
        reply = await uploading.service.status("", PARTITIONS_MAX)
        return said.model_copy(update={"streams": reply.streams, "partitions": reply.partitions})


def _known(leasing: LeaseReport) -> dict[str, Any]:
    """Return what the lease is at, without what changes by itself."""
    return {name: value for name, value in (leasing.status() or {}).items() if name != "remaining_s"}


@asynccontextmanager
async def running_daemon(load: Callable[[], Settings]) -> AsyncIterator[Daemon]:
    """Run a daemon with the settings that `load` gives, again at each SIGHUP; raise `InvalidSettings`."""

    def loaded() -> Settings:
        return daemon_settings(load())

    settings = loaded()
    async with AsyncExitStack() as closing:
        data = await closing.enter_async_context(data_directory(settings.data_dir))
        root_token(data.path)
        addresses = await closing.enter_async_context(nats(settings, data))
        daemon = await closing.enter_async_context(Daemon(settings, data, addresses, loaded))
        data.publish("", settings.node_id, addresses.monitor, addresses.reader, addresses.client)
        yield daemon
