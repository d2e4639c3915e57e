"""Reading documents beside their writers: bounded, interruptible, on one state, and closed when nobody needs them."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
from ulid import ULID

from forge.stack.nats import NatsServer
from projectors.document.domain import document_domain, document_partition, document_path
from projectors.document.quickness import RUNS
from projectors.document.reads.quick import QuickReads
from projectors.document.reads.reader import Reader
from projectors.document.reads.reading import PER_DOCUMENT, DocumentReaders
from projectors.document.reads.row_stream import RowStreams
from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.classes import NotARead, execute_reads
from projectors.outcome import Answer
from projectors.partitions import Partitions
from schemas.document import RunSql, Statement
from schemas.problems import Refusal
from tests.conftest import StartNats
from tests.notes import eventually, opened_log

FOR_EVER = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
MANY = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) SELECT i, 'row ' || i FROM n"


class Rig:
    """The documents of a node, without HTTP."""

    def __init__(self, partitions: Partitions, docs_dir: Path, bounds: SqlBounds) -> None:
        self.partitions = partitions
        self.docs_dir = docs_dir
        self.bounds = bounds
        self.readers = DocumentReaders(partitions, docs_dir, bounds)
        self.streams = RowStreams(self.readers)

    async def write(self, db_id: str, *sql: str, timeout_s: float = 30) -> Answer:
        """Run statements as one command."""
        command = RunSql(statements=tuple(Statement(sql=one) for one in sql), classes=("read", "write", "admin"))
        return await self.partitions.submit(document_partition(db_id), command, principal="root", timeout_s=timeout_s)

    async def ask(self, db_id: str, sql: str, *, seconds: float | None = None) -> list[object]:
        """Run a read; return its rows."""
        bounds = self.bounds.narrowed(seconds)

        def run(reader: Reader) -> list[object]:
            return list(execute_reads(reader.db, [Statement(sql=sql)], bounds, numbered=False).all[0].rows)

        return (await self.readers.run(db_id, run))[0]

    def open_files(self, db_id: str) -> int:
        """Return how many files of a document this process has open."""
        path = str(document_path(self.docs_dir, db_id))
        return sum(target.startswith(path) for target in map(_target, os.listdir("/proc/self/fd")))


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


@asynccontextmanager
async def documents(
    server: NatsServer, directory: Path, *, idle_s: float = 300.0, bounds: SqlBounds | None = None
) -> AsyncIterator[Rig]:
    """Open the documents of `directory` on the log of `server`."""
    bounds = bounds or SqlBounds()
    async with opened_log(server) as event_log:
        domains = {"doc": document_domain(directory / "docs", bounds)}
        partitions = Partitions(event_log, domains, node="test-node", idle_s=idle_s)
        rig = Rig(partitions, directory / "docs", bounds)
        try:
            yield rig
        finally:
            await rig.readers.close()
            await partitions.close()


def new_db_id() -> str:
    """Return a name that no other test uses."""
    return f"read-{str(ULID()).lower()}"


async def test_a_read_sees_one_state_and_says_which(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR2: what was answered to a writer is there for the next read, at the position that the read tells."""
    db_id = new_db_id()
    async with documents(nats_server, tmp_path) as rig:
        await rig.write(db_id, "CREATE TABLE t (n)")
        for expected in range(1, 6):
            written = await rig.write(db_id, "INSERT INTO t VALUES (1)")
            count, position = await rig.readers.read(
                db_id, lambda db: db.execute("SELECT count(*) FROM t").get, timeout_s=60
            )
            assert (count, position) == (expected, written.position)


async def test_a_state_does_not_move_while_it_is_read(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR2, issue 3: statements of one read see the same rows, whatever is committed meanwhile."""
    db_id = new_db_id()
    async with documents(nats_server, tmp_path) as rig:
        before = await rig.write(db_id, "CREATE TABLE t (n)")
        counted, written = threading.Event(), threading.Event()

        def twice(reader: Reader) -> list[object]:
            first = execute_reads(reader.db, [Statement(sql="SELECT count(*) FROM t")], rig.bounds, numbered=False)
            counted.set()
            assert written.wait(30)
            second = execute_reads(reader.db, [Statement(sql="SELECT count(*) FROM t")], rig.bounds, numbered=False)
            return [first.all[0].rows, second.all[0].rows]

        reading = asyncio.create_task(rig.readers.run(db_id, twice))
        await eventually(counted.is_set)
        await rig.write(db_id, "INSERT INTO t VALUES (1)")
        written.set()

        assert await reading == ([[(0,)], [(0,)]], before.position)
        assert await rig.ask(db_id, "SELECT count(*) FROM t") == [(1,)]


async def test_a_runaway_query_is_interrupted_and_its_reader_usable_at_once(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """P2.6: interrupted, not abandoned: the thread does the next query."""
    db_id = new_db_id()
    async with documents(nats_server, tmp_path) as rig:
        await rig.write(db_id, "CREATE TABLE t (n)")
        for _ in range(2 * PER_DOCUMENT):
            with pytest.raises(Refusal) as refusal:
                await rig.ask(db_id, FOR_EVER, seconds=0.05)
            assert refusal.value.problem.type.endswith("query-timeout")
            assert refusal.value.problem.status == 408
            assert await rig.ask(db_id, "SELECT 1") == [(1,)]


async def test_a_caller_that_leaves_takes_its_query_along(nats_server: NatsServer, tmp_path: Path) -> None:
    """P0.8: running, it is interrupted long before its time is over; waiting, it is never run."""
    db_id = new_db_id()
    async with documents(nats_server, tmp_path, bounds=SqlBounds(seconds=600)) as rig:
        await rig.write(db_id, "CREATE TABLE t (n)")
        running = [asyncio.create_task(rig.ask(db_id, FOR_EVER)) for _ in range(PER_DOCUMENT)]
        ran: list[str] = []
        waits = asyncio.create_task(rig.readers.run(db_id, lambda _: ran.append("ran")))
        await eventually(lambda: rig.readers.turns.waiting == 1)

        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert rig.readers.turns.waiting == 0
        for task in running:
            task.cancel()
        async with asyncio.timeout(60):
            await asyncio.gather(*running, return_exceptions=True)

        assert all(task.cancelled() for task in running)
        assert await rig.ask(db_id, "SELECT 1") == [(1,)]
        assert not ran


async def test_one_document_does_not_keep_others_waiting(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR6, P0.7: queries that take for ever hold up their own document only, and are queued there in order."""
    busy, quiet = new_db_id(), new_db_id()
    async with documents(nats_server, tmp_path, bounds=SqlBounds(seconds=600)) as rig:
        for db_id in (busy, quiet):
            await rig.write(db_id, "CREATE TABLE t (n)")
        tasks = [asyncio.create_task(rig.ask(busy, FOR_EVER)) for _ in range(3 * PER_DOCUMENT)]
        await eventually(lambda: rig.readers.turns.waiting == 2 * PER_DOCUMENT)

        assert await rig.ask(quiet, "SELECT count(*) FROM t") == [(0,)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_idle_document_keeps_nothing_open(nats_server: NatsServer, tmp_path: Path) -> None:
    """P0.9: after the idle time no file is open and the WAL is gone; the next read opens it again."""
    db_id = new_db_id()
    async with documents(nats_server, tmp_path, idle_s=0.4) as rig:
        await rig.write(db_id, "CREATE TABLE t (n)")
        await asyncio.gather(*(rig.ask(db_id, "SELECT count(*) FROM t") for _ in range(20)))
        assert rig.open_files(db_id)

        await eventually(lambda: not rig.partitions.opened())
        await eventually(lambda: not rig.open_files(db_id))
        assert os.listdir(rig.docs_dir) == [document_path(rig.docs_dir, db_id).name]
        assert await rig.ask(db_id, "SELECT count(*) FROM t") == [(0,)]


async def test_reading_counts_as_use(nats_server: NatsServer, tmp_path: Path) -> None:
    """P0.9: a document that is read again and again is not closed in between."""
    db_id, idle_s = new_db_id(), 1.0
    async with documents(nats_server, tmp_path, idle_s=idle_s) as rig:
        await rig.write(db_id, "CREATE TABLE t (n)")
        longest_s = idle_s
        while longest_s > idle_s / 2:  # else the machine stalled, and it was closed rightly
            partition = rig.partitions[document_partition(db_id)]
            begun = before = time.monotonic()
            longest_s = 0.0
            while before < begun + 3 * idle_s:
                await rig.ask(db_id, "SELECT 1")
                await asyncio.sleep(0.02)
                longest_s, before = max(longest_s, time.monotonic() - before), time.monotonic()
            found = rig.partitions.find(document_partition(db_id))

        assert found is partition


async def test_a_file_that_was_replaced_is_opened_anew(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR4: a rebuild puts another file in the place of the old one; readers notice."""
    db_id = new_db_id()
    async with documents(nats_server, tmp_path) as rig:
        await rig.write(db_id, "CREATE TABLE t (n)")
        assert await rig.ask(db_id, "SELECT count(*) FROM t") == [(0,)]
        path = document_path(rig.docs_dir, db_id)
        await rig.partitions[document_partition(db_id)].close()  # as when a partition opens its files again
        replace_with_one_more_row(path)

        assert await rig.ask(db_id, "SELECT count(*) FROM t") == [(1,)]


def replace_with_one_more_row(path: Path) -> None:
    """Put a copy of a document, with a row more, in its place."""
    copy = path.with_suffix(".new")
    source, target = apsw.Connection(str(path)), apsw.Connection(str(copy))
    with target.backup("main", source, "main") as backup:
        backup.step()
    target.execute("INSERT INTO t VALUES (1)")
    source.close()
    target.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    copy.replace(path)


async def test_idle_connections_are_bounded(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR7: many documents that were read once keep few connections."""
    async with documents(nats_server, tmp_path) as rig:
        await rig.readers.close()
        rig.readers = DocumentReaders(rig.partitions, rig.docs_dir, rig.bounds, idle_max=3)
        names = [new_db_id() for _ in range(6)]
        for db_id in names:
            await rig.write(db_id, "CREATE TABLE t (n)")
            await rig.ask(db_id, "SELECT 1")
        files = [rig.open_files(db_id) for db_id in names]

        assert files[0] < files[-1]
        assert await rig.ask(names[0], "SELECT count(*) FROM t") == [(0,)]


async def test_a_stream_gives_all_rows_of_one_state(nats_server: NatsServer, tmp_path: Path) -> None:
    """Issue 3, NDJSON: rows come in parts; what is written between two parts is not seen; no thread is held."""
    db_id = new_db_id()
    async with documents(nats_server, tmp_path) as rig:
        before = await rig.write(db_id, f"CREATE TABLE t AS {MANY}")
        streams = [
            await rig.streams.open(db_id, Statement(sql="SELECT * FROM t ORDER BY i"), rig.bounds) for _ in range(8)
        ]
        rows: list[object] = []
        while part := await rig.streams.next(streams[0]):
            rows += part
            if len(rows) < 5000:
                await rig.write(db_id, "DELETE FROM t WHERE i > 5000")

        assert rows == [(i, f"row {i}") for i in range(1, 20001)]
        assert streams[0].position == before.position
        with pytest.raises(Refusal, match="streams of"):
            await rig.streams.open(db_id, Statement(sql="SELECT 1"), rig.bounds)
        assert await rig.ask(db_id, "SELECT count(*) FROM t") == [(5000,)]
        for stream in streams:
            rig.streams.close(stream)
        rig.streams.close(await rig.streams.open(db_id, Statement(sql="SELECT 1"), rig.bounds))


async def test_reads_that_are_always_quick_need_no_thread(nats_server: NatsServer, tmp_path: Path) -> None:
    """Issue 3, benchmarks: they answer the same, at the newest position, and see what was written before."""
    db_id = new_db_id()
    async with documents(nats_server, tmp_path) as rig:
        await rig.write(db_id, "CREATE TABLE t (n)")
        quick, reads = QuickReads(rig.readers), 20
        for n in range(reads):
            written = await rig.write(db_id, "INSERT INTO t VALUES (1)")
            found, position = await quick.run(
                db_id, [Statement(sql="SELECT count(*) FROM t WHERE n = ?", args=[1])], rig.bounds, numbered=False
            )
            assert (list(found.all[0].rows), position) == ([(n + 1,)], written.position)

        assert 0 < quick.here <= reads - RUNS
        with pytest.raises(NotARead):
            await quick.run(db_id, [Statement(sql="DELETE FROM t")], rig.bounds, numbered=False)


async def test_a_quick_read_that_turns_slow_holds_up_nobody(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR6, P2.6: it is interrupted where it is, runs in a thread to its own end, and its document stays there."""
    db_id = new_db_id()
    sql = FOR_EVER.replace("FROM n) SELECT", "FROM n LIMIT ?) SELECT")
    async with documents(nats_server, tmp_path) as rig:
        await rig.write(db_id, "CREATE TABLE t (n)")
        quick = QuickReads(rig.readers)

        async def count(rows: int, seconds: float = 60) -> object:
            bounds = replace(rig.bounds, seconds=seconds)
            return (await quick.run(db_id, [Statement(sql=sql, args=[rows])], bounds, numbered=False))[0].all[0].rows

        while not quick.here:
            assert await count(3) == [(3,)]
        here = quick.here
        assert await count(1_000_000) == [(1_000_000,)]
        assert await count(3) == [(3,)]
        assert quick.here == here
        with pytest.raises(Refusal, match="time"):
            await count(10**12, 0.05)


async def test_what_is_committed_can_be_read_while_the_log_is_away(start_nats: StartNats, tmp_path: Path) -> None:
    """PR8: reads need the log only to open a document."""
    db_id = new_db_id()
    server = await start_nats()
    async with documents(server, tmp_path) as rig:
        await rig.write(db_id, "CREATE TABLE t (n)")
        assert await rig.ask(db_id, "SELECT count(*) FROM t") == [(0,)]
        await server.stop()

        with pytest.raises(Refusal) as refusal:
            await rig.write(db_id, "INSERT INTO t VALUES (1)", timeout_s=0.2)
        assert refusal.value.problem.status == 503
        assert await rig.ask(db_id, "SELECT count(*) FROM t") == [(0,)]
