"""Projections are disposable: the log gives them back, and says when they are not what they should be."""

import asyncio
import os
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from events.cursor import Cursor
from events.envelope import Event
from events.errors import LogWentBack
from events.log import Log
from forge.stack.nats import NatsServer
from projectors.copying import copy_projection
from projectors.domain import Domain
from projectors.projection import connect, read_cursor
from projectors.rebuild import Verdict, digest_of, rebuild, verify
from projectors.threads import Threads
from projectors.vector.domain import PARTITION
from schemas.ids import PartitionId, Position
from schemas.vector import AcceptUpload, ClaimJobs, CompleteJob, FailJob, ParkJobs, RecoverJobs
from tests.conftest import StartNats
from tests.notes import (
    AddNotes,
    NoteAdded,
    append_note,
    new_partition,
    notes_domain,
    opened_log,
    opened_partition,
    texts,
)
from tests.vector_history import HASHES, domain_in

WAIT_S = 90.0
REBUILD_AND_HANG = """
import asyncio, sys, time
from pathlib import Path
from events.log import Log
from projectors import catch_up
from projectors.rebuild import rebuild
from projectors.threads import Threads
from schemas.ids import PartitionId
from tests.notes import notes_domain

catch_up.GROUP_RECORDS = 1

async def main(url, monitor, subject, directory):
    partition, domain = PartitionId.parse(subject), notes_domain(Path(directory))
    def hang(position):
        print(position, flush=True)
        if position.index == 3:
            time.sleep(600)
    with Threads(1) as threads:
        spec = domain.projections(partition.key)[0]
        await rebuild(Log(url, monitor).reader, threads, domain, partition, [spec], progress=hang)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest_asyncio.fixture
async def event_log(nats_server: NatsServer) -> AsyncIterator[Log]:
    async with opened_log(nats_server) as opened:
        yield opened


async def written(event_log: Log, partition: PartitionId, domain: Domain, count: int = 5) -> None:
    """Have the commit loop write notes, some of them with a command id."""
    async with opened_partition(event_log, partition, domain) as running:
        for number in range(count):
            command = AddNotes(texts=(f"note {number}",))
            await running.submit(command, principal="root", command_id=f"key-{number}" if number % 2 else None)


async def rebuilt(event_log: Log, partition: PartitionId, domain: Domain) -> list[str]:
    with Threads(1) as threads:
        await rebuild(event_log.reader, threads, domain, partition, domain.projections(partition.key))
    return [digest_of(spec.path) for spec in domain.projections(partition.key)]


async def verified(event_log: Log, partition: PartitionId, domain: Domain) -> list[Verdict]:
    with Threads(1) as threads:
        return [
            await verify(event_log.reader, threads, domain, partition, spec)
            for spec in domain.projections(partition.key)
        ]


def digests(directory: Path) -> list[str]:
    return [digest_of(directory / name) for name in ("notes.db", "lengths.db")]


def names(directory: Path) -> list[str]:
    """Return what lies there, but for the files that SQLite keeps beside a database in use or read last."""
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith(("-wal", "-shm")))


async def test_an_empty_folder_gets_the_same_digests_back(event_log: Log, tmp_path: Path) -> None:
    """PR4: by rebuild, and by simply starting."""
    partition = new_partition()
    await written(event_log, partition, notes_domain(tmp_path / "live"))
    expected = digests(tmp_path / "live")
    (tmp_path / "rebuilt").mkdir()

    assert await rebuilt(event_log, partition, notes_domain(tmp_path / "rebuilt")) == expected
    await written(event_log, partition, notes_domain(tmp_path / "started"), 0)
    async with opened_partition(event_log, partition, notes_domain(tmp_path / "started")) as running:
        await running.ready(WAIT_S)

    assert digests(tmp_path / "rebuilt") == digests(tmp_path / "started") == expected


async def test_the_vector_projections_come_back_with_all_answers(start_nats: StartNats, tmp_path: Path) -> None:
    """PR4, PR5: also the one that does not remember commands, though its records carry receipts."""
    server = await start_nats(supervised=False)
    domain = domain_in(tmp_path)
    async with opened_log(server) as event_log:
        async with opened_partition(event_log, PARTITION, domain) as running:
            claim = ClaimJobs(worker_id="a", kinds=("image",), limit=9, lease_s=30)
            for number, command in enumerate(
                [
                    *(AcceptUpload(kind="image", file_hash=h, size_bytes=3) for h in HASHES),
                    claim,
                    CompleteJob(job_id=1, worker_id="a", model="m", vector=b"\0" * 8),
                    FailJob(job_id=2, worker_id="a", reason="no", delay_s=0),
                ]
            ):
                await running.submit(command, principal="root", command_id=f"key-{number}")
        before = [digest_of(tmp_path / name) for name in ("queue.db", "embeddings.db")]

        verdicts = await verified(event_log, PARTITION, domain)
        after = await rebuilt(event_log, PARTITION, domain)

    assert [verdict.equal for verdict in verdicts] == [True, True], [verdict.difference for verdict in verdicts]
    assert after == before


@pytest.mark.parametrize("known", [(2, 8), (8, 2), (0, 5), (6, 7)])
async def test_vector_projections_of_unrelated_moments_meet_when_they_are_opened(
    start_nats: StartNats, tmp_path: Path, known: tuple[int, int]
) -> None:
    """G18, PR4: queue and embeddings were restored to any two positions; what was processed waits again, unharmed."""
    server = await start_nats(supervised=False)
    commands = [
        *(AcceptUpload(kind="image", file_hash=h, size_bytes=3) for h in HASHES),
        ClaimJobs(worker_id="a", kinds=("image",), limit=9, lease_s=30),
        CompleteJob(job_id=1, worker_id="a", model="m", vector=b"\0" * 8),
        ParkJobs(worker_id="a", job_ids=(2,), reason="no bytes"),
        CompleteJob(job_id=3, worker_id="a", model="m", vector=b"\0" * 8),
    ]
    live, restored = tmp_path / "live", tmp_path / "restored"
    restored.mkdir()
    async with opened_log(server) as event_log:
        async with opened_partition(event_log, PARTITION, domain_in(live)) as running:
            for at, command in enumerate(commands):
                await running.submit(command, principal="root")
                for name, index in zip(("queue.db", "embeddings.db"), known, strict=True):
                    if at + 1 == index:
                        copy_projection(live / name, restored / name, threading.Event())
        async with opened_partition(event_log, PARTITION, domain_in(restored)) as running:
            await running.ready(WAIT_S)
            for name in ("queue.db", "embeddings.db"):
                assert digest_of(restored / name) == digest_of(live / name)
            assert (await running.submit(RecoverJobs(worker_id="b"), principal="root")).value == {"released": 1}
    with closing(connect(restored / "queue.db", readonly=True)) as db:
        found = list(db.execute("SELECT status, attempts FROM job ORDER BY id"))
    assert found == [("done", 0), ("awaiting_payload", 0), ("done", 0), ("pending", 0)]


async def test_another_version_of_the_code_rebuilds_at_start(event_log: Log, tmp_path: Path) -> None:
    """It must show 3: the old rows are not migrated, they are folded anew."""

    def fold(db: apsw.Connection, events: Sequence[Event]) -> None:
        for event in events:
            assert isinstance(event.fact, NoteAdded)
            db.execute("INSERT INTO note (text, at) VALUES (?, '')", (event.fact.text.upper(),))

    partition = new_partition()
    await written(event_log, partition, notes_domain(tmp_path))
    newer = notes_domain(tmp_path, version="2", fold=fold)

    async with opened_partition(event_log, partition, newer) as running:
        answer = await running.submit(AddNotes(texts=("next",)), principal="root")
        again = await running.submit(AddNotes(texts=("note 1",)), principal="root", command_id="key-1")

    assert (answer.position, answer.value) == (Position(1, 6), {"notes": 6})
    assert (again.position, again.value) == (Position(1, 2), {"notes": 2})
    assert texts(tmp_path) == [f"NOTE {n}" for n in range(5)] + ["NEXT"]
    assert names(tmp_path) == ["lengths.db", "notes.db"]


async def test_a_file_of_another_partition_is_replaced(event_log: Log, tmp_path: Path) -> None:
    """PR6: rows of one history never pass for those of another."""
    first, second = new_partition(), new_partition()
    await written(event_log, first, notes_domain(tmp_path))

    async with opened_partition(event_log, second, notes_domain(tmp_path)) as running:
        await running.submit(AddNotes(texts=("only",)), principal="root")

    assert texts(tmp_path) == ["only"]


async def test_a_file_that_is_no_database_is_rebuilt(event_log: Log, tmp_path: Path) -> None:
    """PR4: a projection is disposable also when the disk has eaten it."""
    partition = new_partition()
    await written(event_log, partition, notes_domain(tmp_path))
    expected = digests(tmp_path)
    (tmp_path / "notes.db").write_bytes(os.urandom(20_000))

    async with opened_partition(event_log, partition, notes_domain(tmp_path)) as running:
        await running.ready(WAIT_S)
    assert digests(tmp_path) == expected

    (tmp_path / "notes.db").write_bytes(b"not a database" * 1000)
    assert await rebuilt(event_log, partition, notes_domain(tmp_path)) == expected


async def test_verify_names_the_first_row_that_differs(event_log: Log, tmp_path: Path) -> None:
    """PR4, DESIGN 6: the first differing table and key; nothing is changed by looking."""
    partition, domain = new_partition(), notes_domain(tmp_path)
    await written(event_log, partition, domain)
    assert [verdict.equal for verdict in await verified(event_log, partition, domain)] == [True, True]
    db = connect(tmp_path / "notes.db")
    db.execute("UPDATE note SET text = 'forged' WHERE id = 3")
    db.close()
    before = digests(tmp_path)

    notes, lengths = await verified(event_log, partition, domain)

    assert not notes.equal
    assert notes.position == Position(1, 5)
    assert notes.difference == "table note, key 3, column text: 'forged' in one, 'note 2' in the other"
    assert lengths.equal
    assert digests(tmp_path) == before
    assert names(tmp_path) == ["lengths.db", "notes.db"]


async def test_verify_works_beside_a_running_writer(event_log: Log, tmp_path: Path) -> None:
    """PR4: it compares one snapshot, however much is written meanwhile."""
    partition, domain = new_partition(), notes_domain(tmp_path)
    async with opened_partition(event_log, partition, domain) as running:
        stop = asyncio.Event()

        async def write() -> int:
            count = 0
            while not stop.is_set():
                await running.submit(AddNotes(texts=(f"note {count}",)), principal="root", command_id=f"k{count}")
                count += 1
            return count

        writing = asyncio.create_task(write())
        await running.reached(Position(1, 1), WAIT_S)
        verdicts = [verdict for _ in range(3) for verdict in await verified(event_log, partition, domain)]
        stop.set()
        count = await writing

    assert [verdict.difference for verdict in verdicts] == [None] * 6
    assert count >= verdicts[-1].position.index > 0


async def test_a_wal_of_the_old_file_never_lies_under_the_new_one(event_log: Log, tmp_path: Path) -> None:
    """DESIGN 6: SQLite would apply it to the new file: rows that nobody wrote, or a broken database."""
    partition, domain = new_partition(), notes_domain(tmp_path)
    await written(event_log, partition, domain)
    expected = digests(tmp_path)
    wal = _leave_wal(tmp_path)

    for main_file_is_there in (True, False):
        _leave_wal(tmp_path)
        assert wal.stat().st_size > 0
        if not main_file_is_there:
            (tmp_path / "notes.db").unlink()

        assert await rebuilt(event_log, partition, domain) == expected
        assert digests(tmp_path) == expected
        assert not wal.exists() or wal.stat().st_size == 0


def _leave_wal(directory: Path) -> Path:
    """Leave the file with a WAL that holds a change, as `kill -9` does; return the WAL."""
    path = directory / "notes.db"
    db = connect(path)
    db.pragma("journal_mode", "wal")
    db.execute("UPDATE note SET text = 'from the old WAL'")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", directory / f"kept{suffix}")
    db.close()
    for suffix in ("", "-wal"):
        (directory / f"kept{suffix}").replace(f"{path}{suffix}")
    return Path(f"{path}-wal")


async def test_a_kill_during_a_rebuild_leaves_the_old_file(
    event_log: Log, nats_server: NatsServer, tmp_path: Path
) -> None:
    """PR1, PR4: until the rename the old file is untouched; what the dead process left is swept by the next one."""
    partition, domain = new_partition(), notes_domain(tmp_path)
    await written(event_log, partition, domain)
    expected = digests(tmp_path)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", REBUILD_AND_HANG, nats_server.read_url, nats_server.monitor_url, partition.subject, str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    async with asyncio.timeout(WAIT_S):
        while (line := await process.stdout.readline()).strip() != b"1.3":
            assert line, "the rebuild ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    await process.communicate()

    assert any("rebuild" in name for name in names(tmp_path))
    assert digests(tmp_path) == expected
    assert await rebuilt(event_log, partition, domain) == expected
    assert names(tmp_path) == ["lengths.db", "notes.db"]


async def test_a_rebuild_that_is_given_up_leaves_the_old_file_and_nothing_else(event_log: Log, tmp_path: Path) -> None:
    partition, domain = new_partition(), notes_domain(tmp_path)
    await written(event_log, partition, domain)
    expected = digests(tmp_path)
    spec = domain.projections(partition.key)[0]
    with Threads(2) as threads:
        for _ in range(5):
            task = asyncio.create_task(rebuild(event_log.reader, threads, domain, partition, [spec]))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})

    assert digests(tmp_path) == expected
    assert names(tmp_path) == ["lengths.db", "notes.db"]


async def test_a_rebuild_accepts_a_shorter_history(event_log: Log, tmp_path: Path) -> None:
    """PR4, DESIGN 3.5: what the refusal to start tells people to do works."""
    partition, domain = new_partition(), notes_domain(tmp_path)
    await append_note(event_log, partition, Cursor.start(partition), "kept")
    other = notes_domain(tmp_path / "longer")
    longer = new_partition()
    await written(event_log, longer, other)
    (tmp_path / "longer" / "notes.db").replace(tmp_path / "notes.db")
    db = connect(tmp_path / "notes.db")
    db.execute("UPDATE _forge_position SET partition = ?", (partition.subject,))
    db.close()
    with pytest.raises(LogWentBack):
        await verified(event_log, partition, domain)

    await rebuilt(event_log, partition, domain)

    db = connect(tmp_path / "notes.db", readonly=True)
    assert read_cursor(db).position == Position(1, 1)
    db.close()
    async with opened_partition(event_log, partition, domain) as running:
        assert (await running.submit(AddNotes(texts=("next",)), principal="root")).value == {"notes": 2}
