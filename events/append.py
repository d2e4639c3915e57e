"""Conditional append: one record, exactly once, or a definite reason why not.

The server checks the expected sequence, so a record lands directly after the one it was decided upon or not at
all. After a timeout or a lost connection nobody knows: then the same record is looked for at its place and sent
again until there is a definite answer. Message ids play no part in that: the server forgets them.
"""

import asyncio
from base64 import b64decode
from dataclasses import dataclass
from typing import Any

import structlog
from nats.aio.msg import Msg
from prometheus_client import Counter
from pydantic_core import from_json, to_json

from events.backoff import delays
from events.connection import Connection, ConnectionLost
from events.errors import AppendAbandoned, LogUnavailable
from events.record import Message, Record, message_record_id, to_messages
from events.streams import stream_of
from events.write_guard import ALWAYS_OPEN, WriteGuard
from schemas.ids import PartitionId

ACK_TIMEOUT_S = 5.0
RETRY_DELAY_MAX_S = 1.0
WRONG_LAST_SEQUENCE = (10071, 10164)
ALREADY_COMMITTED = (10201,)  # a batch whose message ids are known: look for it
NOT_FOUND = 10037
STORE_FAILED = 10077  # a full stream, which is definite, or a disk that failed half-way, which is not
FULL = "maximum"

log = structlog.get_logger(__name__)
retries = Counter("forge_append_retries_total", "Appends sent again because nobody could say what became of them.")
conflicts = Counter("forge_append_conflicts_total", "Appends refused because another writer was faster.")


@dataclass(frozen=True, slots=True)
class Appended:
    """The record is in the log, durable, at this stream sequence."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another record stands where this one wanted to be. Nothing was written."""


async def append(
    connection: Connection,
    record: Record,
    expected_sequence: int,
    guard: WriteGuard = ALWAYS_OPEN,
    *,
    copy: str = "",
) -> Appended | Conflict:
    """Append `record` after the partition's message `expected_sequence` (0: it has none).

    Returns only with a definite answer, however long the server is away; raise `LogUnavailable` if the server
    refused before anything was ambiguous, and `MessageTooLarge`. Cancel it to give up: then nobody knows.
    Nothing is sent while `guard` is closed: raise `NotTheWriter`, or `AppendAbandoned` if something was sent before.
    A record that may have been here and was removed needs a `copy` of its own, or the server takes it for a repetition.
    """
    guard.check()
    messages = to_messages(record, expected_sequence, copy=copy)
    outcome = await _definitely(connection, messages, record, expected_sequence, guard)
    if isinstance(outcome, Appended) and (tail := connection.tails.get(stream_of(record.partition))) is not None:
        tail.add(messages, outcome.sequence, connection.generation)
    return outcome


async def _definitely(
    connection: Connection, messages: list[Message], record: Record, expected_sequence: int, guard: WriteGuard
) -> Appended | Conflict:
    try:
        return await _attempt(connection, messages, record, expected_sequence)
    except ConnectionLost:
        log.warning("append outcome unknown, asking again", partition=str(record.partition), record=record.id)
    for wait_s in delays(base_s=0.05, cap_s=RETRY_DELAY_MAX_S):
        await asyncio.sleep(wait_s)
        retries.inc()
        try:
            if found := await _find(connection, record, expected_sequence):
                return found
            if (why := guard.closed_because) is not None:
                raise AppendAbandoned(f"nobody knows whether {record.partition} has {record.position}: {why}")
            return await _attempt(connection, messages, record, expected_sequence)
        except LogUnavailable:
            continue  # even a refusal says nothing about the first copy
    raise AssertionError("delays never end")


async def _attempt(
    connection: Connection, messages: list[Message], record: Record, expected_sequence: int
) -> Appended | Conflict:
    answer = await _publish(connection, messages)
    error = answer.get("error")
    if answer.get("duplicate"):  # it had it once, which is not to say that it still has
        if found := await _find_definitely(connection, record, expected_sequence):
            return found
        raise LogUnavailable(f"the NATS server takes a record of {record.partition} for one that it has had: {answer}")
    if error is None and answer.get("stream") == stream_of(record.partition) and answer["seq"] > expected_sequence:
        return Appended(answer["seq"])
    if error and error["err_code"] == STORE_FAILED and FULL not in error.get("description", ""):
        raise ConnectionLost(f"the NATS server failed while it stored: {error['description']}")
    if error is None or error["err_code"] not in WRONG_LAST_SEQUENCE + ALREADY_COMMITTED:
        raise LogUnavailable(f"the NATS server refused: {error['description'] if error else answer}")
    found = await _find_definitely(connection, record, expected_sequence)
    if found is None:
        conflicts.inc()
    return found or Conflict()


async def _publish(connection: Connection, messages: list[Message]) -> dict[str, Any]:
    """Send a record; all parts but the first and the last of a batch go without waiting."""
    first, *middle = messages
    answer = await connection.request(first.subject, first.payload, first.headers, timeout_s=ACK_TIMEOUT_S)
    if not middle or answer.data:  # a batch's first part is answered with an empty message, or with an error
        return _parse(answer)
    *middle, last = middle
    for message in middle:
        await connection.send(message.subject, message.payload, message.headers)
    return _parse(await connection.request(last.subject, last.payload, last.headers, timeout_s=ACK_TIMEOUT_S))


def _parse(answer: Msg) -> dict[str, Any]:
    try:
        parsed = from_json(answer.data)
    except ValueError as error:
        raise LogUnavailable(f"the NATS server answered with {answer.data[:80]!r}") from error
    return parsed if isinstance(parsed, dict) else {}


async def _find_definitely(connection: Connection, record: Record, expected: int) -> Appended | None:
    for wait_s in delays(base_s=0.05, cap_s=RETRY_DELAY_MAX_S):
        try:
            return await _find(connection, record, expected)
        except LogUnavailable:
            await asyncio.sleep(wait_s)
    raise AssertionError("delays never end")


async def _find(connection: Connection, record: Record, expected_sequence: int) -> Appended | None:
    """Look at the one place where `record` can be; None if it is not (or not yet) there."""
    message = await first_message_after(connection, record.partition, expected_sequence)
    if message is None or message_record_id(message.headers) != record.id:
        return None
    last_part = len(to_messages(record, 0)) - 1
    return Appended(message.sequence + last_part)  # the parts of a batch stand one after the other


async def first_message_after(connection: Connection, partition: PartitionId, sequence: int) -> Message | None:
    """Ask the stream's leader for the partition's first message after `sequence`."""
    return await get_message(connection, partition, {"seq": sequence + 1, "next_by_subj": partition.subject})


async def last_message(connection: Connection, partition: PartitionId) -> Message | None:
    """Ask the stream's leader for the newest message of the partition."""
    return await get_message(connection, partition, {"last_by_subj": partition.subject})


async def get_message(connection: Connection, partition: PartitionId, query: dict[str, Any]) -> Message | None:
    """Read one stored message through the stream's leader, which never answers with stale state."""
    subject = f"$JS.API.STREAM.MSG.GET.{stream_of(partition)}"
    answer = _parse(await connection.request(subject, to_json(query), timeout_s=ACK_TIMEOUT_S))
    if error := answer.get("error"):
        if error.get("err_code") == NOT_FOUND:
            return None
        raise LogUnavailable(f"the NATS server cannot read {partition}: {error.get('description')}")
    return stored_message(answer["message"])


def stored_message(stored: dict[str, Any]) -> Message:
    """Read the JSON form of a stored message."""
    headers = parse_headers(b64decode(stored.get("hdrs", "")))
    return Message(stored["subject"], headers, b64decode(stored.get("data", "")), stored["seq"])


def parse_headers(raw: bytes) -> dict[str, str]:
    """Read a block of NATS headers."""
    lines = raw.decode(errors="replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name: value.strip() for name, _, value in pairs}
