"""What a takeover and a restore of many documents ask of the object store: counted, for time says little in a test."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from events.archive import Archive
from events.archived_place import archived_end, recorded_place
from events.log import Log
from events.objects.errors import StoreUnavailable
from events.objects.memory import MemoryStore
from events.objects.port import Folders, Listed, Object
from events.seek import seek_end
from events.streams import ensure_streams
from forge.archive_service import archiver_of
from forge.domains import domains
from forge.restore.bring_up import Watch, bring_up
from forge.restore.comparing import FILE, compare, forget, remember, remembered
from forge.restore.outcome import Done
from forge.takeover import take_over
from projectors.document.domain import document_partition
from projectors.partitions import Partitions
from projectors.rebuild import digest_of
from projectors.tasks import end
from schemas.document import RunSql, Statement
from schemas.ids import PartitionId, Position
from schemas.settings import Settings
from tests.archives import PREFIX, archived_up_to
from tests.conftest import StartNats
from tests.restoring import Server
from tests.waiting import until
from workers.lease.lease import Held
from workers.lease.none import NoLease
from workers.standby.compared import Compared
from workers.standby.follower import ArchiveFollower

DOCUMENTS = 110
INSERT = "INSERT INTO item VALUES ('a row')"
REQUESTS_MAX = 60  # six streams, and the few documents that may have changed


class Counting(MemoryStore):
    """Counts what is asked. With `silent`, segments are stored and nothing tells so any more."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.silent = False

    async def get(self, key: str) -> Object:
        """Return an object."""
        self.asked["get"] += 1
        return await super().get(key)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Sequence[Listed]:
        """Return one page of keys."""
        self.asked["list"] += 1
        return await super().list(prefix, after=after, limit=limit)

    async def folders(self, prefix: str, *, after: str = "", limit: int = 1000) -> Folders:
        """Return one page of folders."""
        self.asked["folders"] += 1
        return await super().folders(prefix, after=after, limit=limit)

    async def swap(self, key: str, data: bytes, tag: str) -> str:
        """Replace an object."""
        if self.silent and key.endswith("position.json"):
            raise StoreUnavailable("it dies before it can tell")
        return await super().swap(key, data, tag)


@dataclass(frozen=True, slots=True)
class Here:
    """A machine with the domains of a node."""

    settings: Settings
    log: Log
    archive: Archive

    async def run(self, *sql: str, documents: Sequence[PartitionId]) -> None:
        """Run statements in documents."""
        partitions = Partitions(self.log, domains(self.settings), node="test", idle_s=300)
        try:
            for partition in documents:
                for text in sql:
                    command = RunSql(statements=(Statement(sql=text),), classes=("read", "write", "admin"))
                    await partitions.submit(partition, command, principal="root")
        finally:
            await partitions.close()


@asynccontextmanager
async def here(folder: Path, server: Server, store: MemoryStore) -> AsyncIterator[Here]:
    settings = Settings.load({"FORGE_DATA_DIR": str(folder), "FORGE_CACHE_DIR": str(folder / "cache")})
    settings.docs_dir.mkdir(parents=True, exist_ok=True)
    archive = Archive(store, PREFIX)
    urls = {"reader_url": server.read_url, "live_url": server.live_url, "admin_url": server.admin_url}
    log = Log(server.log_url, server.monitor_url, **urls, archive=archive)
    try:
        await ensure_streams(await log.admin.jetstream(), 1)
        yield Here(settings, log, archive)
    finally:
        await log.close()


@asynccontextmanager
async def archiving(writer: Here) -> AsyncIterator[None]:
    """Archive what a machine writes; everything that was there at the beginning is archived then."""
    async with archiver_of(writer.settings, writer.log, writer.archive, seal_s=0) as archiver, asyncio.timeout(60):
        while any(lag.records for lag in await archiver.lag()):  # noqa: ASYNC110 - it is asked
            await asyncio.sleep(0.02)
        yield


@asynccontextmanager
async def following(standby: Here, compared: Compared) -> AsyncIterator[None]:
    """Follow the archive."""
    follower = ArchiveFollower(
        standby.archive,
        standby.log,
        compared=compared,
        holder_epoch=lambda: 0,
        heard=lambda _: None,
        poll_s=0.05,
    )
    task = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        await end(task)


async def test_a_takeover_asks_about_what_may_have_changed_alone(start_nats: StartNats, tmp_path: Path) -> None:
    """PR3, PR4, G30: also about what was stored in the last moment, and told by nobody."""
    store, documents = Counting(), [document_partition(f"d{n}") for n in range(DOCUMENTS)]
    async with (
        here(tmp_path / "writer", await start_nats(), store) as writer,
        here(tmp_path / "standby", await start_nats(), store) as standby,
    ):
        await writer.run("CREATE TABLE item (body TEXT)", INSERT, documents=documents)
        async with archiving(writer):
            pass
        async with archiving(writer):
            await writer.run(INSERT, documents=documents[:1])
            await archived_up_to(store, documents[0], Position(1, 3))
            _, compared = await compare(standby.settings, standby.log, standby.archive)
            async with following(standby, compared):
                await writer.run(INSERT, documents=documents[1:2])
                await until(lambda: compared.ends.get(documents[1]) == Position(1, 3))
            store.silent, stored = True, len(store.objects)
            await writer.run(INSERT, documents=documents[2:3])
            await until(lambda: len(store.objects) > stored)
        store.silent = False
        store.asked.clear()
        lease = NoLease(nothing_before)
        await lease.try_acquire()

        await take_over(standby.settings, standby.log, standby.archive, lease, Held(2, None, True), compared)

        assert store.asked.total() < REQUESTS_MAX, store.asked
        for partition in documents:
            cursor = await seek_end(standby.log.reader, partition)
            assert cursor.position == (await archived_end(Archive(store, PREFIX), partition)).cursor.position
            assert (await recorded_place(standby.archive, partition)).cursor.position == cursor.position, "it is told"
            assert cursor.hash == (await seek_end(writer.log.reader, partition)).hash
        store.asked.clear()
        async with archiving(standby):
            assert store.asked.total() < REQUESTS_MAX, "nobody looks through all of it then"


async def test_the_first_start_after_a_restore_asks_about_what_may_have_changed_alone(
    start_nats: StartNats, tmp_path: Path
) -> None:
    """PR3, PR4: as a standby, and when it takes over; the lost machine may have gone on for a while."""
    store, documents = Counting(), [document_partition(f"d{n}") for n in range(DOCUMENTS)]
    async with (
        here(tmp_path / "writer", await start_nats(), store) as writer,
        here(tmp_path / "new", await start_nats(), store) as new,
    ):
        await writer.run("CREATE TABLE item (body TEXT)", INSERT, documents=documents)
        async with archiving(writer):
            pass
        async with archiving(writer):
            await writer.run(INSERT, documents=documents[:1])
            await archived_up_to(store, documents[0], Position(1, 3))
            _, compared = await compare(new.settings, new.log, new.archive, alone_aside=True)
            remember(tmp_path, compared)
            await writer.run(INSERT, documents=documents[1:2])
            await archived_up_to(store, documents[1], Position(1, 3))
        restored = remembered(tmp_path)
        assert restored == compared
        store.asked.clear()

        outcomes, compared = await compare(new.settings, new.log, new.archive, before=restored)

        assert store.asked.total() < REQUESTS_MAX, store.asked
        assert outcomes[documents[1]].done == Done.CAUGHT_UP
        assert compared.ends == restored.ends | {documents[1]: Position(1, 3)}
        store.asked.clear()
        lease = NoLease(nothing_before)
        await lease.try_acquire()
        await take_over(new.settings, new.log, new.archive, lease, Held(2, None, True), compared)
        assert store.asked.total() < REQUESTS_MAX, store.asked
        table = await Archive(store, PREFIX).epochs.refresh()
        assert table.epoch == 2
        assert {token: ends[-1] for token, ends in table.ends.items()} == {
            one.token: (1, 3 if one in documents[:2] else 2) for one in documents
        }


async def test_what_is_no_memory_of_a_restore_is_none(tmp_path: Path) -> None:
    """Then everything is compared, as if there were none."""
    assert not remembered(tmp_path).epoch
    for damaged in ("", "{", '{"epoch": 1}', '{"marks":{},"epoch":1,"ends":{"doc":"1"},"sequences":{},"created":{}}'):
        (tmp_path / FILE).write_text(damaged)
        assert not remembered(tmp_path).epoch, damaged
    forget(tmp_path)
    assert not (tmp_path / FILE).exists()


async def test_a_small_document_is_restored_with_four_requests(start_nats: StartNats, tmp_path: Path) -> None:
    """PR4: its position, what follows that, its segments and the one that there is; said how far it is meanwhile."""
    store, documents = Counting(), [document_partition(f"d{n}") for n in range(DOCUMENTS)]
    async with (
        here(tmp_path / "writer", await start_nats(), store) as writer,
        here(tmp_path / "new", await start_nats(), store) as new,
    ):
        await writer.run("CREATE TABLE item (body TEXT)", INSERT, documents=documents)
        async with archiving(writer):
            pass
        store.asked.clear()
        told: list[tuple[int, int]] = []

        outcomes = await bring_up(
            new.settings, new.log, new.archive, watch=Watch(counted=lambda *count: told.append(count))
        )

        assert store.asked.total() < 4 * DOCUMENTS + REQUESTS_MAX, store.asked
        assert told == [(n, len(outcomes)) for n in range(1, len(outcomes) + 1)]
        specs = [spec for one in documents for spec in domains(writer.settings)["doc"].projections(one.key)]
        restored = [spec for one in documents for spec in domains(new.settings)["doc"].projections(one.key)]
        assert [digest_of(spec.path) for spec in specs] == [digest_of(spec.path) for spec in restored]
        assert {outcomes[one].done for one in documents} == {Done.RESTORED}


async def nothing_before() -> int:
    """Return the first epoch."""
    return 1
