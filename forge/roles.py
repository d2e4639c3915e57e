"""A node that shares a prefix with others: the writer while the lease is its own, a standby while it is another's."""

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import structlog

from api.front import Front
from events.archive import Archive
from events.backoff import delay
from events.errors import LogError
from events.log import Log
from events.objects.errors import StoreError
from events.streams import ensure_streams
from events.write_guard import WriteGuard
from forge.listen import parse_listen
from forge.node import Addresses, Node, http_server, url_of
from forge.restore.comparing import compare, forget, remembered
from forge.restore.outcome import Outcome
from forge.standby_service import Standby
from forge.takeover import take_over
from projectors.tasks import end
from schemas.settings import Settings
from schemas.vector import Kind
from workers.lease.lease import Held, WriterLease
from workers.standby.compared import Compared

RETRY_S, RETRY_MAX_S = 0.5, 10.0

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class _Stopping(Exception):
    """This node stops."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a node is made of, whatever its role."""

    settings: Settings
    addresses: Addresses
    token: str
    listen: str
    worker_urls: Mapping[Kind, str]
    archive: Archive
    lease: WriterLease


class Roles:
    """Listens all the time, and answers with the node that its role asks for. `async with` runs it; `url` is where."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._front = Front()
        self._server = http_server(parts.settings, self._front, parse_listen(parts.listen))
        self._up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._guard: WriteGuard = parts.lease.guard
        self._known = self._restored = Compared()
        self.url = ""

    @property
    def why_not(self) -> str | None:
        """Why this node takes no writes now, None if it does."""
        return self._guard.closed_because

    async def __aenter__(self) -> Self:
        """Return when the node has its first role; raise what keeps it from that."""
        self.url = url_of(*await self._server.start())
        self._task = asyncio.create_task(self._run(), name="roles")
        try:
            await asyncio.wait({self._task, self._up}, return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                await self._task
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._front.end()
        await self._server.stop()
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task})  # not cancelled: the node archives what it can, and closes its files

    async def _run(self) -> None:
        """Change roles for ever; what goes wrong before the first one is up ends it."""
        failures = 0
        self._known = self._restored = await asyncio.to_thread(remembered, self._parts.settings.data_dir)
        held = await self._at_once()
        while True:
            try:
                if held is None:
                    held = await self._stand_by()
                await self._write(held)
                held, failures = None, 0
            except _Stopping:
                return
            except Exception as error:
                if not self._up.done() and not isinstance(error, LogError | StoreError):
                    raise
                failures += 1
                self._front.doing = f"this node cannot take its role yet: {error}"
                log.warning("role not taken", reason=str(error) or repr(error))
                if held is not None and self._parts.lease.lost.is_set():
                    held = None
                pause_s = delay(failures, base_s=RETRY_S, cap_s=RETRY_MAX_S, rng=random.Random())
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause_s)
                    return

    async def _at_once(self) -> Held | None:
        """Acquire the lease if that can be done now."""
        try:
            outcome = await self._parts.lease.try_acquire()
        except StoreError as error:
            log.warning("nobody tells who is the writer", reason=str(error))
            return None
        return outcome if isinstance(outcome, Held) else None

    async def _write(self, held: Held) -> None:
        """Be the writer until the lease is lost."""
        parts = self._parts
        self._front.doing = "this node becomes the writer: it compares what it has with the archive"
        async with self._opened_log() as event_log:
            taking = take_over(parts.settings, event_log, parts.archive, parts.lease, held, self._known)
            self._tell(await self._unless_stopping(taking))
        await asyncio.to_thread(forget, parts.settings.data_dir)
        async with self._node(epoch=held.epoch):
            log.info("writer", epoch=held.epoch)
            await self._unless_stopping(parts.lease.lost.wait())
        log.error("not the writer any more", holder=parts.lease.holder and parts.lease.holder.owner_id)

    async def _stand_by(self) -> Held:
        """Be a standby until the lease is ours."""
        acquiring = asyncio.create_task(self._parts.lease.acquire(), name="acquire the writer lease")
        try:
            while not acquiring.done():
                standby = await self._compared()
                async with self._node(standby=standby):
                    over = asyncio.create_task(standby.over.wait())
                    await self._unless_stopping(asyncio.wait({acquiring, over}, return_when=asyncio.FIRST_COMPLETED))
                    over.cancel()
                if not standby.compared.epoch:
                    await asyncio.sleep(RETRY_S)
            return await acquiring
        finally:
            await end(acquiring)

    async def _compared(self) -> Standby:
        """Make the history here that of the archive, as far as the archive can be read; return how to follow it."""
        parts, settings = self._parts, self._parts.settings
        self._front.doing = "this node becomes a standby: it compares what it has with the archive"
        self._known = Compared()
        try:
            async with self._opened_log() as event_log:
                comparing = compare(settings, event_log, parts.archive, before=self._restored)
                outcomes, self._known = await self._unless_stopping(comparing)
            self._tell(outcomes.values())
        except (LogError, StoreError) as error:
            log.warning("not compared with the archive", reason=str(error))
        log.info("standby", holder=parts.lease.holder and parts.lease.holder.owner_id, epoch=self._known.epoch)
        poll_s, ready_lag_s = settings.standby_poll_s, settings.archive_ready_lag_s
        return Standby(parts.lease, self._known, poll_s, ready_lag_s, asyncio.Event())

    async def _unless_stopping(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do `work`, and return what it returns; give it up and raise `_Stopping` when this node stops."""
        task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _Stopping
            return task.result()
        finally:
            stopping.cancel()
            await end(task)

    def _tell(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            for path in outcome.aside:
                log.error("kept aside: it is not of the history that counts", partition=outcome.partition, path=path)

    @asynccontextmanager
    async def _opened_log(self) -> AsyncIterator[Log]:
        event_log = self._parts.addresses.open(self._parts.archive)
        try:
            await ensure_streams(await event_log.admin.jetstream(), self._parts.settings.nats_replicas)
            yield event_log
        finally:
            await event_log.close()

    @asynccontextmanager
    async def _node(self, *, epoch: int = 1, standby: Standby | None = None) -> AsyncIterator[None]:
        parts = self._parts
        self._guard = standby.guard if standby else parts.lease.guard
        node = Node(
            parts.settings,
            parts.addresses,
            token=parts.token,
            listen=parts.listen,
            worker_urls=parts.worker_urls,
            archive=parts.archive,
            lease=parts.lease,
            epoch=epoch,
            standby=standby,
            front=self._front,
        )
        try:
            async with node:
                if not self._up.done():
                    self._up.set_result(None)
                yield
        finally:
            if self._stopping.is_set() and node.left_some and not parts.lease.lost.is_set():
                log.error(
                    "stopped before everything was archived: the writer lease is not handed over. Start this node "
                    "again, or what is missing is lost to whoever takes over when the lease has run out"
                )
                await parts.lease.release(hand_over=False)
