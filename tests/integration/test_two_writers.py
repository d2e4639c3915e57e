"""Two commit loops on one partition, in two processes: one history, and everybody was told the truth about it."""

import asyncio
import random
import sys
from pathlib import Path

from events.cursor import Cursor
from events.log import Log
from events.read import read
from forge.stack.nats import NatsServer
from projectors.digest import digest
from projectors.projection import connect
from schemas.ids import PartitionId, Position
from tests.conftest import StartNats
from tests.faults.checker import check
from tests.faults.history import Operation, read_histories
from tests.faults.killer import fresh_seed
from tests.faults.nats_proxy import NatsProxy
from tests.integration.note_writer import READY, Orders
from tests.notes import AddNotes, new_partition, notes_domain, opened_log, opened_partition, texts, through

WAIT_S = 120.0
ACKS_LOST = 10


class Writers:
    """Processes that all write one partition."""

    def __init__(self, server: NatsServer, partition: PartitionId, directory: Path) -> None:
        self.server, self.partition, self.directory = server, partition, directory
        self.journals: list[Path] = []

    async def start(
        self, name: str, *, port: int | None, callers: int, commands_each: int
    ) -> asyncio.subprocess.Process:
        """Start a writer, behind a proxy at `port`; return when its projections are open."""
        url = self.server.log_url
        orders = Orders(
            name=name,
            writer_url=through(url, port) if port else url,
            reader_url=self.server.read_url,
            monitor_url=self.server.monitor_url,
            partition=self.partition.subject,
            directory=self.directory / name,
            journal=self.directory / f"{name}-{len(self.journals)}.journal",
            callers=callers,
            commands_each=commands_each,
        )
        self.journals.append(orders.journal)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.integration.note_writer",
            orders.model_dump_json(),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout
        async with asyncio.timeout(WAIT_S):
            while READY not in (line := await process.stdout.readline()).decode():
                assert line, "the writer ended before it was ready"
        return process

    def operations(self) -> list[Operation[Position]]:
        """Return what all of them were told."""
        return read_histories(self.journals, Position.parse)


async def ended(*processes: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(WAIT_S):
        for process in processes:
            _, _ = await process.communicate()


async def commands(event_log: Log, partition: PartitionId) -> list[tuple[Position, list[str]]]:
    """Return the command ids of every record."""
    found = []
    async for entry in read(event_log.reader, partition, Cursor.start(partition)):
        found.append((entry.record.position, [e["commandid"] for e in entry.record.envelopes() if "commandid" in e]))
    return found


async def caught_up(event_log: Log, partition: PartitionId, directory: Path) -> tuple[list[str], list[str]]:
    """Return notes and digests after opening the projections of a writer once more."""
    async with opened_partition(event_log, partition, notes_domain(directory)) as running:
        await running.ready(WAIT_S)
    digests = []
    for name in ("notes.db", "lengths.db"):
        db = connect(directory / name, readonly=True)
        digests.append(digest(db))
        db.close()
    return texts(directory), digests


async def test_two_processes_write_one_history(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR2, PR3: every answered command is in the log once, at its answered position; none that was refused."""
    partition = new_partition()
    writers = Writers(nats_server, partition, tmp_path)
    async with opened_log(nats_server) as event_log:
        both = [await writers.start(name, port=None, callers=8, commands_each=40) for name in ("left", "right")]
        await ended(*both)

        operations = writers.operations()
        log = await commands(event_log, partition)
        assert check(operations, log) == []
        assert len(operations) == 2 * 8 * 40
        assert sum(bool(operation.positions) for operation in operations) > len(operations) / 2
        stored = [name for _, names in log for name in names]
        assert {name.partition("-")[0] for name in stored} == {"left", "right"}
        left, right = [await caught_up(event_log, partition, tmp_path / name) for name in ("left", "right")]
        assert left == right
        assert left[0] == stored


async def test_lost_connections_and_a_killed_writer_change_nothing_of_that(
    start_nats: StartNats, tmp_path: Path
) -> None:
    """PR2, PR3, PR5: acks get lost at random, one writer dies by `kill -9` and is started again."""
    seed = fresh_seed()
    print(f"seed={seed}")
    chance = random.Random(seed)
    partition = new_partition()
    server = await start_nats(supervised=False)
    writers = Writers(server, partition, tmp_path)
    async with (
        opened_log(server) as event_log,
        NatsProxy("127.0.0.1", int(server.log_url.rpartition(":")[2])) as proxy,
    ):
        left = await writers.start("left", port=proxy.port, callers=8, commands_each=100_000)
        right = await writers.start("right", port=proxy.port, callers=8, commands_each=100_000)
        for _ in range(ACKS_LOST):
            await proxy.swallow_next_ack(partition.subject)
            await asyncio.sleep(chance.uniform(0, 0.05))
        left.kill()
        await ended(left)
        left = await writers.start("left", port=proxy.port, callers=8, commands_each=50)
        await ended(left)
        right.kill()
        await ended(right)

        operations = writers.operations()
        log = await commands(event_log, partition)
        assert check(operations, log) == []
        assert {op.id.partition("-")[0] for op in operations if op.positions} == {"left", "right"}
        assert any(not op.positions and not op.refused for op in operations), "nothing was ambiguous: no kill was felt"
        print(f"{len(operations)} commands, {sum(op.refused for op in operations)} refused, {len(log)} records")
        left_copy, right_copy = [await caught_up(event_log, partition, tmp_path / name) for name in ("left", "right")]
        assert left_copy == right_copy


async def test_the_same_command_sent_to_both_is_done_once(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR5: the second writer finds the first one's answer when it folds its record."""
    partition = new_partition()
    async with opened_log(nats_server) as event_log:
        domain_left, domain_right = notes_domain(tmp_path / "left"), notes_domain(tmp_path / "right")
        async with (
            opened_partition(event_log, partition, domain_left) as left,
            opened_partition(event_log, partition, domain_right) as right,
        ):
            await asyncio.gather(left.ready(WAIT_S), right.ready(WAIT_S))
            answers = []
            for number in range(5):
                command = AddNotes(texts=(f"note {number}",))
                answers.append(
                    await asyncio.gather(
                        *(w.submit(command, principal="root", command_id=f"key-{number}") for w in (left, right))
                    )
                )

        assert [first == second for first, second in answers] == [True] * 5
        assert [names for _, names in await commands(event_log, partition)] == [[f"key-{n}"] for n in range(5)]
