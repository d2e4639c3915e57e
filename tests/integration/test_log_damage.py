"""A log that is not what it must be: reading stops, names the record, and nothing is skipped or written after it."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytest_asyncio
import zstandard
from pydantic_core import from_json, to_json

from events import record as record_module
from events.cursor import Cursor
from events.errors import ChainMismatch, LogDamaged, LogGap, MalformedRecord, UnknownEvent
from events.log import Log
from events.read import completes, read
from events.record import Message, Record, to_messages
from forge.stack.nats import NatsServer
from projectors.catch_up import catch_up
from projectors.projection import Projection
from projectors.readers import Readers
from projectors.threads import Threads
from schemas.facts import Fact
from schemas.ids import PartitionId, Position
from schemas.problems import Refusal
from tests.conftest import StartNats
from tests.notes import (
    AddNotes,
    NoteAdded,
    append_note,
    new_partition,
    notes_domain,
    opened_log,
    opened_partition,
    record_after,
    texts,
)

WAIT_S = 60.0


class NoteBurnt(Fact):
    """A fact of a newer Forge."""

    TYPE: ClassVar[str] = "forge.note.note.burnt"

    @property
    def subject(self) -> str:
        """Nothing."""
        return "x"


@pytest_asyncio.fixture
async def event_log(nats_server: NatsServer) -> AsyncIterator[Log]:
    async with opened_log(nats_server) as opened:
        yield opened


async def publish(event_log: Log, message: Message) -> int:
    """Write one message as it is, as nobody of Forge would; return its sequence."""
    headers = {name: value for name, value in message.headers.items() if not name.startswith("Nats-Expected")}
    answer = await event_log.writer.request(message.subject, message.payload, headers, timeout_s=WAIT_S)
    return int(from_json(answer.data)["seq"])


async def two_notes(event_log: Log, partition: PartitionId) -> Cursor:
    first = await append_note(event_log, partition, Cursor.start(partition), "note 1")
    return await append_note(event_log, partition, first, "note 2")


def after(cursor: Cursor, partition: PartitionId) -> Record:
    return record_after(cursor, partition, [NoteAdded(text="note 3")])


def with_header(record: Record, name: str, value: str | None) -> Message:
    (message,) = to_messages(record, 0)
    headers = {**message.headers, name: value}
    return replace(message, headers={key: text for key, text in headers.items() if text is not None})


def with_payload(record: Record, payload: bytes, encoding: str = "") -> Message:
    return to_messages(replace(record, payload=payload, encoding=encoding), 0)[0]


def changed(record: Record, **change: Any) -> Message:
    (envelope,) = record.envelopes()
    return with_payload(record, to_json([{**envelope, **change}]))


async def stop_reason(event_log: Log, partition: PartitionId, directory: Path) -> tuple[LogDamaged, Position]:
    """Return why folding stops, and where the projections stand then."""
    domain = notes_domain(directory)
    projections = [Projection(spec, partition) for spec in domain.projections(partition.key)]
    try:
        with Threads(1) as threads, pytest.raises(LogDamaged) as raised:
            await catch_up(event_log.reader, threads, domain, partition, projections)
        return raised.value, projections[0].cursor.position
    finally:
        for projection in projections:
            projection.close()


async def test_a_missing_record_is_a_gap(event_log: Log, tmp_path: Path) -> None:
    """It must show 3: a gap stops with a message that names the record."""
    partition = new_partition()
    cursor = await two_notes(event_log, partition)
    record = replace(after(cursor, partition), position=Position(1, 4))
    sequence = await publish(event_log, to_messages(record, 0)[0])

    reason, _ = await stop_reason(event_log, partition, tmp_path)

    assert isinstance(reason, LogGap)
    assert str(reason) == f"{partition}: record 1.3 is missing; message {sequence} holds 1.4"


@pytest.mark.parametrize("position", [Position(1, 2), Position(1, 1), Position(2, 4), Position(0, 3)])
async def test_a_record_at_a_wrong_position_stops(event_log: Log, tmp_path: Path, position: Position) -> None:
    """PR2: also a second record of an earlier place, a gap between epochs, and an epoch that was over."""
    partition = new_partition()
    cursor = await two_notes(event_log, partition)
    await publish(event_log, to_messages(replace(after(cursor, partition), position=position), 0)[0])

    reason, _ = await stop_reason(event_log, partition, tmp_path)

    assert isinstance(reason, LogGap)
    assert f"holds {position}" in str(reason)


async def test_a_record_that_does_not_name_its_predecessor_breaks_the_chain(event_log: Log, tmp_path: Path) -> None:
    """It must show 3: a broken chain stops with a message that names both records."""
    partition = new_partition()
    cursor = await two_notes(event_log, partition)
    sequence = await publish(event_log, with_header(after(cursor, partition), "Forge-Previous", "00" * 16))

    reason, _ = await stop_reason(event_log, partition, tmp_path)

    assert isinstance(reason, ChainMismatch)
    assert f"record 1.3 (message {sequence})" in str(reason)
    assert f"record 1.2 is {cursor.hash}" in str(reason)


async def test_an_altered_record_is_seen_by_the_one_after_it(event_log: Log, tmp_path: Path) -> None:
    """PR2: whoever changes history has to change all of what follows."""
    partition = new_partition()
    cursor = await two_notes(event_log, partition)
    said, meant = (record_after(cursor, partition, [NoteAdded(text=text)]) for text in ("said", "meant"))
    sequence = await publish(event_log, to_messages(said, 0)[0])
    following = after(Cursor(meant.position, meant.hash, sequence), partition)
    await publish(event_log, to_messages(following, 0)[0])

    reason, _ = await stop_reason(event_log, partition, tmp_path)

    assert isinstance(reason, ChainMismatch)
    assert "record 1.4" in str(reason)


async def test_an_unknown_event_type_stops_and_asks_for_an_upgrade(event_log: Log, tmp_path: Path) -> None:
    """It must show 3, DESIGN 3.2: never skipped; the records before it are folded when it is gone from the group."""
    partition = new_partition()
    cursor = await two_notes(event_log, partition)
    record = record_after(cursor, partition, [NoteBurnt()])
    sequence = await publish(event_log, to_messages(record, 0)[0])

    reason, position = await stop_reason(event_log, partition, tmp_path)

    assert isinstance(reason, UnknownEvent)
    assert f"record 1.3 of {partition} (message {sequence})" in str(reason)
    assert f"event {record.id}/0 has the type 'forge.note.note.burnt'" in str(reason)
    assert position < Position(1, 3)


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: with_payload(r, b"no json"),
        lambda r: with_payload(r, b'{"no": "list"}'),
        lambda r: with_payload(r, b"[3]"),
        lambda r: with_payload(r, b"no zstd", "zstd"),
        lambda r: with_payload(r, zstandard.compress(b"[]" * 400)[:-5], "zstd"),
        lambda r: changed(r, data={"no": "text"}),
        lambda r: changed(r, time="yesterday"),
        lambda r: changed(r, id=None),
        lambda r: changed(r, commandid="x"),
    ],
)
async def test_a_record_that_cannot_be_read_stops(event_log: Log, tmp_path: Path, damage: Any) -> None:
    """It must show 3: the message names the record by its position and by its place in the stream."""
    partition = new_partition()
    cursor = await two_notes(event_log, partition)
    sequence = await publish(event_log, damage(after(cursor, partition)))

    reason, position = await stop_reason(event_log, partition, tmp_path)

    assert isinstance(reason, MalformedRecord)
    assert f"record 1.3 of {partition} (message {sequence})" in str(reason)
    assert position < Position(1, 3)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Forge-Position", None),
        ("Forge-Position", "three"),
        ("Forge-Previous", None),
        ("Content-Type", "text/plain"),
        ("Content-Encoding", "gzip"),
    ],
)
async def test_a_message_that_is_no_record_stops(
    event_log: Log, tmp_path: Path, header: str, value: str | None
) -> None:
    """DESIGN 3.5: nobody but the writer may publish there; if somebody did, that is seen."""
    partition = new_partition()
    cursor = await two_notes(event_log, partition)
    sequence = await publish(event_log, with_header(after(cursor, partition), header, value))

    reason, _ = await stop_reason(event_log, partition, tmp_path)

    assert isinstance(reason, MalformedRecord)
    assert f"message {sequence}" in str(reason) or "record 1.3" in str(reason)


async def test_a_decompression_bomb_in_the_log_stops_in_bounded_memory(
    event_log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PR7: 256 MiB is the bound; the test lowers it."""
    monkeypatch.setattr(record_module, "RECORD_BYTES_MAX", 1 << 20)
    partition = new_partition()
    cursor = await two_notes(event_log, partition)
    bomb = zstandard.compress(b"[" + b" " * (64 << 20) + b"]")
    await publish(event_log, with_payload(after(cursor, partition), bomb, "zstd"))

    reason, _ = await stop_reason(event_log, partition, tmp_path)

    assert isinstance(reason, MalformedRecord)
    assert "record 1.3" in str(reason)


async def test_the_records_before_the_damage_are_given_out(event_log: Log) -> None:
    """Reading stops at the first record that does not follow, not before it."""
    partition = new_partition()
    cursor = await two_notes(event_log, partition)
    await publish(event_log, with_header(after(cursor, partition), "Forge-Previous", "00" * 16))
    given = []

    async def read_all() -> None:
        async for entry in read(event_log.reader, partition, Cursor.start(partition)):
            given.append(entry.cursor.position.index)

    with pytest.raises(ChainMismatch):
        await read_all()
    assert given == [1, 2]


async def test_a_batch_without_its_commit_is_void(event_log: Log) -> None:
    """DESIGN 3.3: readers apply a batch only when its commit header is there."""
    partition = new_partition()
    cursor = await two_notes(event_log, partition)
    part = with_header(after(cursor, partition), "Forge-Part", "1")
    stored = replace(part, headers={**part.headers, "Nats-Batch-Id": "lost", "Nats-Batch-Sequence": "1"})
    void = Log(event_log.writer._url, event_log.monitor_url)
    try:
        await void.writer.send(stored.subject, stored.payload, stored.headers, reply="")
        entries = [e.cursor async for e in read(event_log.reader, partition, cursor)]
        last = await append_note(event_log, partition, cursor, "note 3")
    finally:
        await void.close()

    assert entries == []
    assert [e.cursor async for e in read(event_log.reader, partition, cursor)] == [last]


def test_parts_of_a_lost_batch_before_another_record_are_dropped() -> None:
    """DESIGN 3.3: the same, for a log that was copied message by message and so holds such parts."""
    partition = PartitionId("doc", "x")
    start = Cursor.start(partition)
    lost = to_messages(replace(after(start, partition), payload=b"x" * (9 << 20)), 0)
    whole = to_messages(replace(after(start, partition), payload=b"y" * (5 << 20)), 0)
    single = to_messages(after(start, partition), 0)

    for messages in (whole, single):
        parts: list[Message] = []
        done = [completes(message, parts) for message in [*lost[:-1], *messages]]
        assert done == [False] * (len(done) - 1) + [True]
        assert parts == messages


async def test_a_damaged_log_stops_commands_and_says_why_while_reads_go_on(event_log: Log, tmp_path: Path) -> None:
    """PR1, PR3: nothing is appended after what nobody understands."""
    partition = new_partition()
    domain = notes_domain(tmp_path)
    async with opened_partition(event_log, partition, domain) as running:
        answer = await running.submit(AddNotes(texts=("one",)), principal="root")
        last = await _last(event_log, partition)
        await publish(event_log, to_messages(record_after(last, partition, [NoteBurnt()]), 0)[0])

        for _ in range(2):
            with pytest.raises(Refusal) as raised:
                await running.submit(AddNotes(texts=("two",)), principal="root")
            assert raised.value.problem.type == "urn:forge:problem:partition-stopped"
            assert "forge.note.note.burnt" in raised.value.problem.detail
            assert "record 1.2" in raised.value.problem.detail
        assert str(answer.position) == "1.1"
        assert texts(tmp_path) == ["one"]
    assert (await _count(event_log, partition)) == 2


async def test_a_log_that_went_back_stops_writes_with_instructions_while_reads_go_on(
    start_nats: StartNats, tmp_path: Path
) -> None:
    """PR1, DESIGN 3.5: an older copy of the store was put in place while the node was down."""
    server = await start_nats(tmp_path / "nats", supervised=False)
    domain, partition = notes_domain(tmp_path / "data"), new_partition()
    async with opened_log(server) as event_log:
        async with opened_partition(event_log, partition, domain) as running:
            await running.submit(AddNotes(texts=("kept",)), principal="root")
            await _copy_store(server, tmp_path)
            await _submit_until_taken(running, "lost")
        await _restore_store(server, tmp_path)
        async with opened_partition(event_log, partition, domain) as running:
            await _expect_stopped(running)
            readers = Readers(tmp_path / "data" / "notes.db", partial(running.ready, WAIT_S))
            try:
                assert await readers.read(lambda db: db.execute("SELECT count(*) FROM note").get) == 2
            finally:
                await asyncio.to_thread(readers.close)
        assert await _count(event_log, partition) == 1


async def test_a_log_that_goes_back_under_a_running_loop_stops_writes(start_nats: StartNats, tmp_path: Path) -> None:
    """PR1, DESIGN 3.5: the same while the node runs and only the server is restarted."""
    server = await start_nats(tmp_path / "nats", supervised=False)
    domain, partition = notes_domain(tmp_path / "data"), new_partition()
    async with (
        opened_log(server) as event_log,
        opened_partition(event_log, partition, domain) as running,
    ):
        await running.submit(AddNotes(texts=("kept",)), principal="root")
        await _copy_store(server, tmp_path)
        await _submit_until_taken(running, "lost")
        await _restore_store(server, tmp_path)

        await _expect_stopped(running)
        assert texts(tmp_path / "data") == ["kept", "lost"]
        assert await _count(event_log, partition) == 1


async def _submit_until_taken(running: Any, text: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await running.submit(AddNotes(texts=(text,)), principal="root", command_id=text)
                return
            except Refusal:
                await asyncio.sleep(0.05)


async def _expect_stopped(running: Any) -> None:
    """The first answers may only say that the server is away; then comes the reason, with what to do."""
    async with asyncio.timeout(WAIT_S):
        while True:
            with pytest.raises(Refusal) as raised:
                await running.submit(AddNotes(texts=("never",)), principal="root", timeout_s=WAIT_S)
            problem = raised.value.problem
            if problem.type == "urn:forge:problem:partition-stopped":
                break
            assert problem.status == 503
            await asyncio.sleep(0.05)
    assert "ends at 1.1, but 1.2 is known here" in problem.detail
    assert "forge rebuild" in problem.detail


async def _copy_store(server: NatsServer, directory: Path) -> None:
    await server.stop()
    shutil.copytree(directory / "nats" / "nats", directory / "older")
    await server.start()


async def _restore_store(server: NatsServer, directory: Path) -> None:
    await server.stop()
    shutil.rmtree(directory / "nats" / "nats" / "jetstream")
    shutil.copytree(directory / "older" / "jetstream", directory / "nats" / "nats" / "jetstream")
    await server.start()


async def _last(event_log: Log, partition: PartitionId) -> Cursor:
    cursor = Cursor.start(partition)
    async for entry in read(event_log.reader, partition, cursor):
        cursor = entry.cursor
    return cursor


async def _count(event_log: Log, partition: PartitionId) -> int:
    async with asyncio.timeout(WAIT_S):
        return len([e async for e in read(event_log.reader, partition, Cursor.start(partition))])
