"""Records from a position onward, each checked against the one before it.

Reading keeps no state on the server: a reader asks for what follows its own cursor. JetStream consumers are not
used, because their acknowledgements of the last moments are undone when the server is killed.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack

from nats.aio.msg import Msg
from pydantic_core import to_json

from events.append import last_message
from events.connection import Connection
from events.cursor import Cursor, Entry
from events.errors import ChainMismatch, LogGap, LogUnavailable, LogWentBack, MalformedRecord
from events.record import RECORD_BYTES_MAX, Message, Record, from_messages
from events.streams import stream_of
from schemas.ids import START, PartitionId, Position

BATCH_MESSAGES = 512
BATCH_BYTES = 8 << 20
ANSWER_TIMEOUT_S = 5.0
POLL_S = 1.0  # a follower looks after so long even if no hint of news arrives,
POLL_MAX_S = 10.0  # and each time that there is nothing it waits twice as long, up to this
RETRY_S = 0.5


async def read(connection: Connection, partition: PartitionId, after: Cursor) -> AsyncGenerator[Entry]:
    """Yield all records after `after` that the log holds now, in order.

    What the server no longer holds comes from the archive of `connection`, if it has one.
    Raise `LogGap`, `ChainMismatch` or `MalformedRecord` at the first record that does not follow; nothing is
    skipped. Memory is bounded by one batch and one record.
    """
    parts: list[Message] = []
    cursor = after
    batch = await _first_batch(connection, partition, after)
    while True:
        for message in batch:
            sequence = message.sequence
            if not completes(message, parts):
                continue
            record = from_messages(parts)
            parts = []
            if connection.archive is not None and record.position.index > cursor.position.index + 1:
                async for archived in connection.archive.read(partition, cursor, record.position):
                    cursor = archived.cursor
                    yield archived
            entry = check(record, cursor, sequence)
            cursor = entry.cursor
            yield entry
        if not batch:
            return
        batch = await messages_from(connection, partition, sequence + 1)


async def _first_batch(connection: Connection, partition: PartitionId, after: Cursor) -> list[Message]:
    """Return the first messages of the records after `after`.

    With an archive the sequence of a cursor may be that of another log, which kept the record before this one began:
    it is believed only if that record, or the next one, stands there.
    """
    if connection.archive is None or not after.sequence:
        return await messages_from(connection, partition, after.sequence + 1)
    index, sequence = after.position.index, after.sequence
    batch = await messages_from(connection, partition, sequence)
    if not batch or message_position(batch[0]).index > index + 1:
        batch = await messages_from(connection, partition, 1)
    while batch:
        if following := [message for message in batch if message_position(message).index > index]:
            return following
        batch = await messages_from(connection, partition, batch[-1].sequence + 1)
    return []


async def follow(
    connection: Connection, hints: Connection, partition: PartitionId, after: Cursor
) -> AsyncGenerator[Entry]:
    """Yield all records after `after`, then new ones as they come, for ever; survive an absent server."""
    news = asyncio.Event()
    cursor = after
    wait_s = POLL_S
    async with AsyncExitStack() as closing:
        closing.callback(await hints.listen(partition.live_subject, _setter(news)))
        while True:
            news.clear()
            server = hints.generation
            try:
                async for entry in read(connection, partition, cursor):
                    cursor, wait_s = entry.cursor, POLL_S
                    yield entry
            except LogUnavailable:
                wait_s = POLL_S
                await asyncio.sleep(RETRY_S)
                continue
            try:
                async with asyncio.timeout(wait_s):
                    await news.wait()
            except TimeoutError:
                wait_s = min(2 * wait_s, POLL_MAX_S) if hints.generation == server else POLL_S


async def check_end(connection: Connection, partition: PartitionId, known: Cursor) -> Position:
    """Return the position of the log's last record; raise if the log ends before, or differs at, `known`."""
    last = await last_message(connection, partition)
    end = message_position(last) if last else START
    if last and end == known.position and last.sequence == known.sequence and "Nats-Batch-Id" not in last.headers:
        _check_hash(from_messages([last]), known)
        return end
    if end < known.position:
        raise LogWentBack(
            f"the log of {partition} ends at {end}, but {known.position} is known here: the server's disk lost "
            "records, or an older copy was put in its place. Writes stay off. Stop the node and bring the lost part "
            "back: with an archive by `forge restore`. Without, `forge rebuild` accepts the shorter history"
        )
    if known.position != START:
        await _check_known(connection, partition, known)
    return end


async def _check_known(connection: Connection, partition: PartitionId, known: Cursor) -> None:
    """Raise unless the log holds the record of `known` where it was written, or its archive does, and unchanged."""
    found = await messages_from(connection, partition, known.sequence, 1)
    if (not found or message_position(found[0]) != known.position) and await _archived(connection, partition, known):
        return  # the server has let go of it, or never had it; what follows was read, or will be
    if not found or found[0].sequence != known.sequence or message_position(found[0]) != known.position:
        raise LogGap(f"the log of {partition} does not hold its record {known.position} where it was written")
    if (parts := int(found[0].headers.get("Nats-Batch-Sequence", "1"))) > 1:
        found = await _parts(connection, partition, known.sequence - parts + 1, parts)
    _check_hash(from_messages(found), known)


async def _archived(connection: Connection, partition: PartitionId, known: Cursor) -> bool:
    """Say whether the log begins after the record of `known`, and its archive holds that, unchanged."""
    if connection.archive is None:
        return False
    first = await messages_from(connection, partition, 1, 1)
    if not first or message_position(first[0]).index <= known.position.index:
        return False
    archived = await connection.archive.cursor_at(partition, known.position)
    if archived is None:
        await connection.archive.check_kept(partition, known.position.index)
    return archived is not None and archived.hash == known.hash


def _check_hash(record: Record, known: Cursor) -> None:
    if record.hash != known.hash:
        raise ChainMismatch(
            f"the log of {record.partition} holds another record {known.position} than the one folded here: "
            "the log was replaced, or two nodes wrote it apart from each other"
        )


async def _parts(connection: Connection, partition: PartitionId, sequence: int, count: int) -> list[Message]:
    """Return all parts of a batch; the server answers with only as many at a time as `BATCH_BYTES` hold."""
    parts: list[Message] = []
    while more := await messages_from(connection, partition, sequence + len(parts), count - len(parts)):
        parts += more
        if len(parts) >= count:
            break
    return parts


def _setter(news: asyncio.Event) -> Callable[[Msg], None]:
    return lambda _: news.set()


def message_position(message: Message) -> Position:
    """Return the position that a message names; raise `MalformedRecord` if it names none."""
    try:
        return Position.parse(message.headers["Forge-Position"])
    except (KeyError, ValueError) as error:
        raise MalformedRecord(f"message {message.sequence} on {message.subject} has no position") from error


def completes(message: Message, parts: list[Message]) -> bool:
    """Add `message` to `parts`; say whether they are a whole record now. A batch without commit is void."""
    batch_id = message.headers.get("Nats-Batch-Id", "")
    if parts and parts[0].headers.get("Nats-Batch-Id", "") != batch_id:
        parts.clear()
    parts.append(message)
    if sum(len(part.payload) for part in parts) > RECORD_BYTES_MAX:
        raise MalformedRecord(
            f"message {message.sequence} on {message.subject}: its record is larger than {RECORD_BYTES_MAX} bytes"
        )
    return not batch_id or "Nats-Batch-Commit" in message.headers


def check(record: Record, cursor: Cursor, sequence: int) -> Entry:
    """Return `record`, which ends with message `sequence`; raise `LogGap` or `ChainMismatch` unless it follows."""
    if not record.position.follows(cursor.position):
        expected = cursor.position.next()
        raise LogGap(f"{record.partition}: record {expected} is missing; message {sequence} holds {record.position}")
    if record.previous != cursor.hash:
        raise ChainMismatch(
            f"{record.partition}: record {record.position} (message {sequence}) names {record.previous} as its "
            f"predecessor, but record {cursor.position} is {cursor.hash}: one of them was altered"
        )
    return Entry(record, Cursor(record.position, record.hash, sequence))


async def messages_from(
    connection: Connection, partition: PartitionId, sequence: int, limit: int = BATCH_MESSAGES
) -> list[Message]:
    """Return up to `limit` messages of the partition from stream sequence `sequence` on, or fewer if they are large."""
    return await messages_on(connection, stream_of(partition), partition.subject, sequence, limit)


async def messages_on(
    connection: Connection, stream: str, subjects: str, sequence: int, limit: int = BATCH_MESSAGES
) -> list[Message]:
    """Return messages on `subjects`, which may have wildcards, from a stream; see `messages_from`."""
    query = {"seq": max(sequence, 1), "next_by_subj": subjects, "batch": limit, "max_bytes": BATCH_BYTES}
    subject = f"$JS.API.DIRECT.GET.{stream}"
    messages: list[Message] = []
    async with connection.answers(subject, to_json(query), timeout_s=ANSWER_TIMEOUT_S) as answers:
        async for answer in answers:
            headers = answer.headers or {}
            match headers.get("Status"):
                case None:
                    sequence = int(headers["Nats-Sequence"])
                    messages.append(Message(headers["Nats-Subject"], headers, answer.data, sequence))
                case "204" | "404":
                    break
                case status:
                    raise LogUnavailable(f"reading {subjects} failed: {status} {headers.get('Description')}")
    return messages
