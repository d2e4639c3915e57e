"""Conditional append on a real server: whatever happens on the way, a record is in the log once or not at all."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from events.append import Appended, Conflict, append, first_message_after, last_message, retries
from events.connection import Connection
from events.cursor import Cursor, Entry
from events.errors import LogError, LogUnavailable, MessageTooLarge
from events.log import Log
from events.purge import purge
from events.read import read
from events.record import PART_BYTES_MAX, Record
from forge.stack.nats import NatsServer
from schemas.ids import PartitionId
from tests.conftest import StartNats
from tests.faults.killer import stalled
from tests.faults.nats_proxy import Frame, NatsProxy
from tests.notes import NoteAdded, append_note, eventually, new_partition, opened_log, record_after

LARGE = 2 * PART_BYTES_MAX + 1


@pytest_asyncio.fixture
async def event_log(nats_server: NatsServer) -> AsyncIterator[Log]:
    async with opened_log(nats_server) as opened:
        yield opened


@pytest_asyncio.fixture
async def proxy(nats_server: NatsServer) -> AsyncIterator[NatsProxy]:
    async with NatsProxy("127.0.0.1", int(nats_server.log_url.rpartition(":")[2])) as opened:
        yield opened


@pytest_asyncio.fixture
async def faulty_log(nats_server: NatsServer, proxy: NatsProxy) -> AsyncIterator[Log]:
    """The log, its writer behind the proxy."""
    async with opened_log(nats_server, writer_port=proxy.port) as opened:
        await opened.writer.client()
        yield opened


def record(partition: PartitionId, size_bytes: int = 0, after: Cursor | None = None) -> Record:
    made = record_after(after or Cursor.start(partition), partition, [NoteAdded(text="a note")])
    return replace(made, payload=b"x" * size_bytes) if size_bytes else made


async def stored(event_log: Log, partition: PartitionId) -> list[Entry]:
    return [entry async for entry in read(event_log.reader, partition, Cursor.start(partition))]


@pytest.mark.parametrize("size_bytes", [0, LARGE])
async def test_a_record_that_was_removed_is_stored_again_only_under_a_name_of_its_own(
    event_log: Log, size_bytes: int
) -> None:
    """PR1: else the server says that it has it, for two minutes, and stores nothing."""
    partition = new_partition()
    sent = record(partition, size_bytes)
    assert isinstance(await append(event_log.writer, sent, 0), Appended)
    assert await purge(event_log.admin, partition) == (3 if size_bytes else 1)

    if not size_bytes:
        with pytest.raises(LogUnavailable, match="has had"):
            await append(event_log.writer, sent, 0)
    outcome = await append(event_log.writer, sent, 0, copy="again")

    assert isinstance(outcome, Appended)
    (entry,) = await stored(event_log, partition)
    assert (entry.record, entry.cursor.sequence) == (sent, outcome.sequence)


@pytest.mark.parametrize("size_bytes", [0, LARGE])
async def test_an_acknowledged_record_is_in_the_log(event_log: Log, size_bytes: int) -> None:
    """PR1, DESIGN 3.4: ack."""
    partition = new_partition()
    sent = record(partition, size_bytes)

    outcome = await append(event_log.writer, sent, 0)

    assert isinstance(outcome, Appended)
    (entry,) = await stored(event_log, partition)
    assert entry.record == sent
    assert entry.cursor.sequence == outcome.sequence


@pytest.mark.parametrize("size_bytes", [0, LARGE])
@pytest.mark.parametrize("expected", ["too low", "too high"])
async def test_another_expectation_is_a_conflict_and_writes_nothing(
    event_log: Log, size_bytes: int, expected: str
) -> None:
    """PR3, DESIGN 3.4: wrong last sequence."""
    partition = new_partition()
    first = await append_note(event_log, partition, Cursor.start(partition))

    wrong = 0 if expected == "too low" else first.sequence + 5
    outcome = await append(event_log.writer, record(partition, size_bytes, after=first), wrong)

    assert isinstance(outcome, Conflict)
    assert [entry.cursor for entry in await stored(event_log, partition)] == [first]


@pytest.mark.parametrize("size_bytes", [0, LARGE])
async def test_a_lost_acknowledgement_ends_in_one_record(faulty_log: Log, proxy: NatsProxy, size_bytes: int) -> None:
    """PR3: the ambiguous append; the record is found where it must be."""
    partition = new_partition()
    sent = record(partition, size_bytes)
    lost = proxy.swallow_next_ack(partition.subject)

    outcome = await append(faulty_log.writer, sent, 0)

    assert lost.done()
    (entry,) = await stored(faulty_log, partition)
    assert entry.record == sent
    assert outcome == Appended(entry.cursor.sequence)


@pytest.mark.parametrize("size_bytes", [0, LARGE])
async def test_a_lost_publish_is_sent_again(faulty_log: Log, proxy: NatsProxy, size_bytes: int) -> None:
    """PR3: nothing arrived, of a batch not even its first part; the record is in the log once."""
    partition = new_partition()
    sent = record(partition, size_bytes)
    lost = proxy.swallow_next_publish(partition.subject)

    outcome = await append(faulty_log.writer, sent, 0)

    assert lost.done()
    (entry,) = await stored(faulty_log, partition)
    assert entry.record == sent
    assert outcome == Appended(entry.cursor.sequence)


async def test_a_batch_that_was_cut_in_the_middle_is_sent_again_whole(nats_server: NatsServer) -> None:
    """DESIGN 3.3: all of a batch or nothing of it; what arrived of the first try is never seen."""
    async with _CutInside(nats_server) as proxy, opened_log(nats_server, writer_port=proxy.port) as event_log:
        await event_log.writer.client()
        partition = new_partition()
        sent = record(partition, LARGE)
        proxy.cut_part(partition.subject, 2)

        outcome = await append(event_log.writer, sent, 0)

        (entry,) = await stored(event_log, partition)
        assert entry.record == sent
        assert outcome == Appended(entry.cursor.sequence)


class _CutInside(NatsProxy):
    """Loses the publish of one part of a batch, after its first part."""

    def __init__(self, server: NatsServer) -> None:
        super().__init__("127.0.0.1", int(server.log_url.rpartition(":")[2]))
        self._subject, self._countdown = "", 0

    def cut_part(self, subject: str, part: int) -> None:
        self._subject, self._countdown = subject, part

    def _to_server(self, frame: Frame, published: dict[bytes, str]) -> Any:
        if frame.op == b"HPUB" and frame.arguments[0].decode() == self._subject:
            self._countdown -= 1
            if self._countdown == 0:
                self.swallow_next_publish(self._subject)
        return super()._to_server(frame, published)


async def test_a_foreign_record_in_the_meantime_makes_an_ambiguous_append_a_conflict(
    event_log: Log, faulty_log: Log, proxy: NatsProxy
) -> None:
    """PR3: two writers never both succeed at the same index."""
    partition = new_partition()
    lost = proxy.swallow_next_publish(partition.subject)
    await proxy.refuse()
    ours = asyncio.create_task(append(faulty_log.writer, record(partition), 0))
    await lost
    theirs = await append_note(event_log, partition, Cursor.start(partition), "theirs")
    proxy.accept()

    assert isinstance(await ours, Conflict)
    assert [entry.cursor for entry in await stored(faulty_log, partition)] == [theirs]


async def test_a_late_original_after_a_pause_of_the_server_is_the_only_copy(
    start_nats: StartNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PR3: the first copy waits in the paused server while the second one is sent; one of them counts."""
    monkeypatch.setattr("events.append.ACK_TIMEOUT_S", 0.2)
    server = await start_nats(supervised=False)
    async with opened_log(server) as event_log:
        partition = new_partition()
        first = await append_note(event_log, partition, Cursor.start(partition))
        assert server.pid
        with stalled(server.pid):
            await eventually(partial(_all_threads_stopped, server.pid))
            ours = asyncio.create_task(append(event_log.writer, sent := record(partition, after=first), first.sequence))
            before = _retries()
            await eventually(lambda: _retries() >= before + 3)
        outcome = await ours

        entries = await stored(event_log, partition)
        assert [entry.record.position.index for entry in entries] == [1, 2]
        assert entries[1].record == sent
        assert outcome == Appended(entries[1].cursor.sequence)


def _all_threads_stopped(pid: int) -> bool:
    states = [task.joinpath("stat").read_text().rpartition(") ")[2][0] for task in Path(f"/proc/{pid}/task").iterdir()]
    return set(states) == {"T"}


def _retries() -> float:
    return float(retries._value.get())


@pytest.mark.parametrize("size_bytes", [0, LARGE])
async def test_a_full_stream_is_a_definite_refusal(start_nats: StartNats, size_bytes: int) -> None:
    """DESIGN 3.4: nothing is half done, and writing works again once there is room."""
    server = await start_nats(supervised=False)
    async with opened_log(server) as event_log:
        partition = new_partition()
        first = await append_note(event_log, partition, Cursor.start(partition))
        jetstream = await event_log.admin.jetstream()
        config = (await jetstream.stream_info("FORGE_DOCS")).config
        await jetstream.update_stream(config, max_bytes=first.sequence + 1000)

        with pytest.raises(LogUnavailable, match="maximum bytes"):
            await append(event_log.writer, record(partition, size_bytes or 2000, after=first), first.sequence)

        assert [entry.cursor for entry in await stored(event_log, partition)] == [first]
        await jetstream.update_stream(config, max_bytes=-1)
        assert isinstance(
            await append(event_log.writer, record(partition, size_bytes, after=first), first.sequence), Appended
        )


async def test_a_full_store_is_a_refusal(start_nats: StartNats) -> None:
    """PR7: `max_file_store` is the bound of all streams together."""
    server = await start_nats(supervised=False, file_store_bytes=200_000)
    async with opened_log(server) as event_log:
        partition = new_partition()
        cursor = Cursor.start(partition)
        refusal: LogUnavailable | None = None
        while refusal is None:
            made = record(partition, 40_000, cursor)
            try:
                outcome = await append(event_log.writer, made, cursor.sequence)
            except LogUnavailable as error:
                refusal = error
            else:
                assert isinstance(outcome, Appended)
                cursor = Cursor(made.position, made.hash, outcome.sequence)

        assert "refused" in str(refusal)
        assert cursor.position.index > 0
        assert (await stored(event_log, partition))[-1].cursor == cursor


async def test_a_missing_stream_is_a_definite_refusal(start_nats: StartNats) -> None:
    """DESIGN 3.4: no responders."""
    server = await start_nats(supervised=False)
    connection = Connection(server.log_url, "_INBOX_log", "test")
    try:
        with pytest.raises(LogUnavailable, match="JetStream is not ready, or the stream is missing"):
            await append(connection, record(new_partition()), 0)
        with pytest.raises(LogUnavailable):
            await append(connection, record(new_partition(), LARGE), 0)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda made: replace(made, node="n" * (5 << 20), payload=b"x" * PART_BYTES_MAX),
        lambda made: replace(made, node="n" * (8 << 20)),
    ],
)
async def test_a_message_over_the_limits_is_not_sent_and_the_connection_lives(
    event_log: Log, change: Callable[[Record], Record]
) -> None:
    """DESIGN 3.5: headers count; the server would cut the connection and with it everybody's appends."""
    partition = new_partition()
    await event_log.writer.client()
    generation = event_log.writer.generation

    with pytest.raises(MessageTooLarge):
        await append(event_log.writer, change(record(partition)), 0)

    await append_note(event_log, partition, Cursor.start(partition))
    assert event_log.writer.generation == generation


async def test_a_subject_over_the_limit_is_not_sent(event_log: Log) -> None:
    """DESIGN 3.5: subject length is capped."""
    with pytest.raises(MessageTooLarge):
        await event_log.writer.send("forge.live." + "x" * 1014, b"")

    await append_note(event_log, partition := new_partition(), Cursor.start(partition))


async def test_a_closed_client_is_replaced(event_log: Log) -> None:
    """DESIGN 3.5: nats-py gives up for good on some errors; the guard starts anew."""
    partition = new_partition()
    cursor = await append_note(event_log, partition, Cursor.start(partition))
    client = await event_log.writer.client()
    await client.close()
    assert client.is_closed

    again = await append_note(event_log, partition, cursor)

    assert again.position == cursor.position.next()
    assert await event_log.writer.client() is not client


async def test_nothing_is_sent_later_that_its_caller_saw_fail(faulty_log: Log, proxy: NatsProxy) -> None:
    """PR3: while disconnected nothing is buffered, so nothing arrives after the reconnect."""
    partition = new_partition()
    await proxy.refuse()
    await proxy.drop_connections()
    await eventually(lambda: not faulty_log.writer.connected)
    ours = asyncio.create_task(append(faulty_log.writer, record(partition), 0))
    before = _retries()
    await eventually(lambda: _retries() >= before + 2)
    ours.cancel()
    with pytest.raises((asyncio.CancelledError, LogError)):
        await ours
    proxy.accept()

    await eventually(lambda: faulty_log.writer.connected)
    await append_note(faulty_log, partition, Cursor.start(partition), "the first")

    assert len(await stored(faulty_log, partition)) == 1


async def test_killing_the_server_during_an_append_ends_in_one_record(start_nats: StartNats) -> None:
    """PR1, PR3: the append goes on until the server is back and says what is true."""
    server = await start_nats()
    async with opened_log(server) as event_log:
        partition = new_partition()
        cursor = Cursor.start(partition)
        for _ in range(5):
            ours = asyncio.create_task(append(event_log.writer, made := record(partition, 0, cursor), cursor.sequence))
            await asyncio.sleep(0)
            await server.child.kill()
            outcome = await ours
            assert isinstance(outcome, Appended)
            cursor = Cursor(made.position, made.hash, outcome.sequence)
            await eventually(lambda: server.healthy)

        assert [entry.record.position.index for entry in await stored(event_log, partition)] == [1, 2, 3, 4, 5]


async def test_the_leader_is_asked_for_what_stands_in_a_place(event_log: Log) -> None:
    partition = new_partition()
    assert await last_message(event_log.writer, partition) is None
    first = await append_note(event_log, partition, Cursor.start(partition))
    second = await append_note(event_log, partition, first)

    found = await first_message_after(event_log.writer, partition, first.sequence)
    last = await last_message(event_log.writer, partition)

    assert found is not None
    assert found == last
    assert found.sequence == second.sequence
    assert await first_message_after(event_log.writer, partition, second.sequence) is None
