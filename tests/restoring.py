"""Machines that share one archive, each with a log and files of its own: what tests of restoring begin with."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from events.archive import Archive
from events.cursor import Cursor
from events.log import Log
from events.objects.port import ObjectStore
from events.read import read
from events.record import Record
from events.streams import ensure_streams
from forge.restore.bring_up import restore_all
from forge.restore.outcome import Outcome
from forge.restore.partition import Restorer
from projectors.domain import Domain
from projectors.partition import Partition
from projectors.rebuild import digest_of
from projectors.threads import Threads
from schemas.ids import PartitionId, Position
from tests.archives import PREFIX, archived_up_to, archiving
from tests.conftest import StartNats
from tests.notes import AddNotes, notes_domain, texts


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine: its folder, its log, and the archive as it sees it."""

    folder: Path
    log: Log
    archive: Archive
    domain: Domain

    async def write(self, partition: PartitionId, *notes: str, epoch: int = 1) -> Position:
        """Write notes with the commit loop, one record each; return where the partition stands then."""
        with Threads(2) as threads:
            loop = Partition(partition, self.domain, self.log, threads, node="test-node", epoch=epoch)
            try:
                await loop.ready(60)
                for note in notes:
                    await loop.submit(AddNotes(texts=(note,)), principal="root")
                assert loop.position is not None
                return loop.position
            finally:
                await loop.close()

    async def archived(self, partition: PartitionId, position: Position) -> None:
        """Archive the log up to `position`."""
        async with archiving(self.log, self.archive.store):
            await archived_up_to(self.archive.store, partition, position)

    async def restore(self, partition: PartitionId, *, alone_aside: bool = False) -> Outcome:
        """Compare everything with the archive; return what became of `partition`."""
        with Threads(4) as threads:
            restorer = Restorer(self.archive, self.log, threads, self.folder, alone_aside)
            outcomes = await restore_all(restorer, {"doc": self.domain}, [partition])
        return outcomes[partition]

    async def records(self, partition: PartitionId) -> list[Record]:
        """Return the whole history as it is read here."""
        return [entry.record async for entry in read(self.log.reader, partition, Cursor.start(partition))]

    @property
    def notes(self) -> list[str]:
        """All notes of the projection."""
        return texts(self.folder)

    @property
    def digests(self) -> list[str]:
        """The digests of the projections."""
        return [digest_of(spec.path) for spec in self.domain.projections("")]


class Server(Protocol):
    """A nats-server, as far as a machine needs it."""

    @property
    def log_url(self) -> str: ...
    @property
    def read_url(self) -> str: ...
    @property
    def live_url(self) -> str: ...
    @property
    def admin_url(self) -> str: ...
    @property
    def monitor_url(self) -> str: ...


StartMachine = Callable[[str], Awaitable[Machine]]


@asynccontextmanager
async def machines(folder: Path, start_nats: StartNats, store: ObjectStore) -> AsyncIterator[StartMachine]:
    """Give what starts machines by name, which share `store`; a name that came before has an empty log now."""
    async with AsyncExitStack() as closing:

        async def one(name: str) -> Machine:
            return await closing.enter_async_context(machine(folder / name, await start_nats(), store))

        yield one


@asynccontextmanager
async def machine(
    folder: Path, server: Server, store: ObjectStore, *, domain: Callable[[Path], Domain] = notes_domain
) -> AsyncIterator[Machine]:
    """Give a machine whose files lie in `folder`, with the log of `server` and the archive in `store`."""
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    archive = Archive(store, PREFIX)
    urls = {"reader_url": server.read_url, "live_url": server.live_url, "admin_url": server.admin_url}
    log = Log(server.log_url, server.monitor_url, **urls, archive=archive)
    try:
        await ensure_streams(await log.admin.jetstream(), 1)
        yield Machine(folder, log, archive, domain(folder))
    finally:
        await log.close()
