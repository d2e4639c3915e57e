"""Finding a place in history by position or by time, in few questions whatever the place."""

import math
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from ulid import ULID

from events.append import Appended, append
from events.cursor import Cursor
from events.envelope import Event, encode_event
from events.log import Log
from events.read import read
from events.record import PART_BYTES_MAX, Record, encode_payload
from events.seek import BelowFloor, BeyondHead, OtherHistory, extent, seek, seek_time
from forge.stack.nats import NatsServer
from schemas.ids import START, PartitionId, Position
from tests.notes import NoteAdded, append_note, new_partition, opened_log, record_after

SEED = 20261120


@pytest_asyncio.fixture
async def event_log(nats_server: NatsServer) -> AsyncIterator[Log]:
    async with opened_log(nats_server) as opened:
        yield opened


def instant(second: int) -> str:
    return f"2026-11-20T10:{second // 60:02}:{second % 60:02}.000000Z"


async def append_at(event_log: Log, partition: PartitionId, cursor: Cursor, time: str, size: int = 10) -> Cursor:
    """Append a note of `size` incompressible characters that was written at `time`."""
    record_id = str(ULID())
    text = random.Random(size).randbytes(size // 2).hex()
    event = Event(f"{record_id}/0", "/forge/node/test", time, "root", NoteAdded(text=text))
    payload, encoding = encode_payload([encode_event(event)])
    record = Record(partition, cursor.position.next(), cursor.hash, record_id, "test", payload, encoding)
    outcome = await append(event_log.writer, record, cursor.sequence)
    assert isinstance(outcome, Appended)
    return Cursor(record.position, record.hash, outcome.sequence)


async def questions(event_log: Log) -> int:
    """Return how many messages the reader's connection has sent so far."""
    return (await event_log.reader.client()).stats["out_msgs"]


async def test_every_position_is_found_among_other_partitions_and_records_of_many_parts(event_log: Log) -> None:
    """K2.1: an address is a position; where the server keeps it is found out."""
    chance = random.Random(SEED)
    partitions = [new_partition() for _ in range(3)]
    cursors = {partition: [Cursor.start(partition)] for partition in partitions}
    for number in range(90):
        partition = chance.choices(partitions, weights=(10, 3, 1))[0]
        size = 2 * PART_BYTES_MAX + 10 if number % 30 == 7 else 10
        record = replace(
            record_after(cursors[partition][-1], partition), payload=bytes([65 + number % 20]) * size, encoding=""
        )
        outcome = await append(event_log.writer, record, cursors[partition][-1].sequence)
        assert isinstance(outcome, Appended)
        cursors[partition].append(Cursor(record.position, record.hash, outcome.sequence))

    for partition in partitions:
        for cursor in cursors[partition]:
            assert await seek(event_log.reader, partition, cursor.position) == cursor, f"seed {SEED}"
        head = cursors[partition][-1].position
        assert await extent(event_log.reader, partition) == (min(Position(1, 1), head), head)


async def test_a_position_is_found_in_few_questions_wherever_it_is(event_log: Log) -> None:
    """K2.1, G6: the cost of a seek does not grow with the distance from the start."""
    chance = random.Random(SEED)
    partition, other = new_partition(), new_partition()
    cursors, others = [Cursor.start(partition)], Cursor.start(other)
    for _ in range(400):
        if chance.random() < 0.5 or len(cursors) > 250:
            others = await append_note(event_log, other, others)
        else:
            cursors.append(await append_note(event_log, partition, cursors[-1]))
    first, last = cursors[1].sequence, cursors[-1].sequence
    bound = 4 + 2 * math.ceil(math.log2(last - first + 1))

    asked = []
    for cursor in cursors:
        before = await questions(event_log)
        assert await seek(event_log.reader, partition, cursor.position) == cursor
        asked.append(await questions(event_log) - before)

    assert max(asked) <= bound, f"seed {SEED}"
    assert sum(asked) / len(asked) <= bound / 2


async def test_what_the_log_does_not_hold_has_its_own_outcome(event_log: Log) -> None:
    """K0.2: an unknown cursor is an explicit error, never an empty page."""
    partition, empty = new_partition(), new_partition()
    cursor = await append_note(event_log, partition, Cursor.start(partition))

    for where, position in ((empty, Position(1, 1)), (partition, Position(1, 2)), (partition, Position(1, 2**63))):
        with pytest.raises(BeyondHead):
            await seek(event_log.reader, where, position)
    for position in (Position(0, 1), Position(2, 0), Position(2, 1)):
        with pytest.raises(OtherHistory) as caught:
            await seek(event_log.reader, partition, position)
        assert (caught.value.floor, caught.value.head) == (cursor.position, cursor.position)
    assert await seek(event_log.reader, empty, START) == Cursor.start(empty)
    assert await extent(event_log.reader, empty) == (START, START)


async def test_below_the_floor_nothing_is_found_and_at_the_floor_everything_follows(event_log: Log) -> None:
    """K2.3: who asks for records that are gone hears so; the last position before the floor is still good."""
    partition = new_partition()
    await append_note(event_log, new_partition(), Cursor.start(new_partition()))
    gone = Cursor(Position(1, 3), "ab" * 16, 0)  # a purged history looks as if it began later
    cursors = [await append_note(event_log, partition, gone)]
    for _ in range(3):
        cursors.append(await append_note(event_log, partition, cursors[-1]))

    for position in (START, Position(1, 1), Position(1, 2)):
        with pytest.raises(BelowFloor) as caught:
            await seek(event_log.reader, partition, position)
        assert caught.value.floor == Position(1, 4)
    for cursor in cursors:
        assert await seek(event_log.reader, partition, cursor.position) == cursor
    found = await seek(event_log.reader, partition, gone.position)
    assert found == replace(gone, sequence=cursors[0].sequence - 1)
    assert [entry.cursor async for entry in read(event_log.reader, partition, found)] == cursors
    with pytest.raises(BelowFloor):
        await seek_time(event_log.reader, partition, "2026-01-01T00:00:00.000000Z")


async def test_a_moment_is_the_last_record_that_was_written_until_then(event_log: Log) -> None:
    """Issue 3, deliverable 8: the past can be named by time; several records may share a moment."""
    partition, other = new_partition(), new_partition()
    cursors, others = [Cursor.start(partition)], Cursor.start(other)
    seconds = [10, 10, 20, 20, 20, 30, 40, 40, 50, 60, 60, 70]
    for number, second in enumerate(seconds):
        size = 3 * PART_BYTES_MAX if number in (3, 8) else 10
        cursors.append(await append_at(event_log, partition, cursors[-1], instant(second), size))
        others = await append_note(event_log, other, others)

    for second in range(5, 80, 5):
        expected = cursors[sum(1 for one in seconds if one <= second)]
        assert await seek_time(event_log.reader, partition, instant(second)) == expected, second
    assert await seek_time(event_log.reader, new_partition(), instant(1)) != cursors[0]
