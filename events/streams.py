"""The streams of the log, as data, and what makes them exist with exactly these settings."""

import asyncio
from dataclasses import dataclass
from typing import Any, NamedTuple

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError
from pydantic_core import from_json, to_json

from events.connection import Connection
from events.errors import LogUnavailable
from schemas.ids import PartitionId

DUPLICATE_WINDOW_S = 120
STATE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Stream:
    """One JetStream stream: the domains whose partitions it holds."""

    name: str
    domain: str
    subject: str
    holds: str


STREAMS = (
    Stream("FORGE_CONTROL", "control", "forge.log.control", "the control plane"),
    Stream("FORGE_DOCS", "doc", "forge.log.doc.*", "documents, one partition each"),
    Stream("FORGE_VECTOR", "vector", "forge.log.vector.*", "uploads, jobs and embeddings, by shard"),
    Stream("FORGE_NODE", "node", "forge.log.node.*", "what each node keeps"),
    Stream("FORGE_OBJECTS", "object", "forge.log.object.*", "versioned objects, by slot"),
    Stream("FORGE_GC", "gc", "forge.log.gc", "inventory generations"),
)
_BY_DOMAIN = {stream.domain: stream for stream in STREAMS}


def stream_of(partition: PartitionId) -> str:
    """Return the name of the stream that holds `partition`."""
    return _BY_DOMAIN[partition.domain].name


def stream_config(stream: Stream, replicas: int) -> StreamConfig:
    """Return the settings that keep PR1: on disk, never dropping, never expiring, no way to rewrite."""
    return StreamConfig(
        name=stream.name,
        subjects=[stream.subject],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,
        max_age=0,
        num_replicas=replicas,
        duplicate_window=DUPLICATE_WINDOW_S,
        deny_delete=True,
        allow_direct=True,
        allow_atomic=True,
    )


class StreamState(NamedTuple):
    """What the server says of a stream; `created` tells it from an earlier one of the same name."""

    created: str
    messages: int
    size_bytes: int
    last_sequence: int
    subjects: dict[str, int]


async def stream_states(connection: Connection) -> dict[str, StreamState]:
    """Return the state of every stream by its name; raise `LogUnavailable`."""
    states = await asyncio.gather(*(stream_state(connection, stream.name) for stream in STREAMS))
    return {stream.name: state for stream, state in zip(STREAMS, states, strict=True)}


async def stream_state(connection: Connection, name: str, *, subjects: bool = False) -> StreamState:
    """Ask for the state of a stream, with the messages of each subject if asked; raise `LogUnavailable`."""
    query = to_json({"subjects_filter": ">"}) if subjects else b""
    answer = await connection.request(f"$JS.API.STREAM.INFO.{name}", query, timeout_s=STATE_TIMEOUT_S)
    try:
        info: dict[str, Any] = from_json(answer.data)
        state = info["state"]
    except (ValueError, KeyError, TypeError) as error:
        raise LogUnavailable(f"the NATS server does not tell the state of {name}: {answer.data[:200]!r}") from error
    return StreamState(
        info["created"], state["messages"], state["bytes"], state["last_seq"], state.get("subjects") or {}
    )


async def ensure_streams(jetstream: JetStreamContext, replicas: int) -> None:
    """Create the streams that are missing; refuse one whose settings could lose data."""
    for stream in STREAMS:
        wanted = stream_config(stream, replicas)
        try:
            found = (await jetstream.stream_info(stream.name)).config
        except NotFoundError:
            await _create(jetstream, wanted)
            continue
        if differing := _differences(wanted, found):
            raise LogUnavailable(
                f"stream {stream.name} has {', '.join(differing)}: change it with the nats CLI or use another server"
            )


async def _create(jetstream: JetStreamContext, config: StreamConfig) -> None:
    try:
        await jetstream.add_stream(config)
    except APIError as error:
        raise LogUnavailable(f"stream {config.name} cannot be made: {error.description}") from error


def _differences(wanted: StreamConfig, found: StreamConfig) -> list[str]:
    unlimited = (None, 0, -1)
    problems = [
        f"{name} {getattr(found, name)!r} instead of {getattr(wanted, name)!r}"
        for name in (
            "subjects",
            "storage",
            "retention",
            "discard",
            "num_replicas",
            "allow_direct",
            "allow_atomic",
        )
        if getattr(found, name) != getattr(wanted, name)
    ]
    problems += [
        f"a limit {name}={getattr(found, name)}"
        for name in ("max_msgs", "max_bytes", "max_age", "max_msgs_per_subject")
        if getattr(found, name) not in unlimited
    ]
    if found.persist_mode not in (None, "default"):
        problems.append(f"persist_mode {found.persist_mode!r}")
    return problems
