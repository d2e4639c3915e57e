"""The archiver of a node: one follower for each stream, and what it tells about all of them."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Self

from events.archive import Archive
from events.cursor import Cursor
from events.errors import LogError
from events.log import Log
from events.read import messages_on
from events.streams import STREAMS, stream_state
from schemas.facts import Fact
from schemas.ids import PartitionId
from workers.archive import metrics
from workers.archive.follower import Bounds, StreamArchiver
from workers.archive.places import Places
from workers.archive.sealing import Archived, Sealer

FLUSH_S = 5.0  # what a node that stops may still archive; the rest follows at the next start


class StreamLag(NamedTuple):
    """What of one stream is not archived. Bytes that were not read yet are estimated by the mean of the stream."""

    stream: str
    records: int
    size_bytes: int
    seconds: float
    trouble: str
    stopped: dict[str, str]


class Archiver:
    """Archives every partition of the log. `async with` runs it."""

    def __init__(
        self,
        archive: Archive,
        event_log: Log,
        facts: Mapping[str, Mapping[str, type[Fact]]],
        payload_path: Callable[[str], Path],
        bounds: Bounds,
        *,
        node: str,
        concurrency: int,
        archived: Archived = lambda *_: None,
    ) -> None:
        self.archive = archive
        self._reader = reader = event_log.reader
        self._places = places = Places(archive, reader, node)
        sealer = Sealer(archive, reader, places, facts, payload_path, seal_bytes=bounds.seal_bytes, archived=archived)
        limit = asyncio.Semaphore(concurrency)
        self._streams = [StreamArchiver(stream, archive, event_log, sealer, bounds, limit) for stream in STREAMS]
        self._tasks: list[asyncio.Task[None]] = []
        self.left_some = True  # when it was ended: whether something may not be archived

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(archiver.run(), name=f"archive {archiver.stream.name}") for archiver in self._streams
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                self.left_some = not all(await asyncio.gather(*(archiver.flush() for archiver in self._streams)))

    def known(self, partition: PartitionId) -> Cursor | None:
        """Return how far a partition is archived, before the store says it; None if the store has to be asked."""
        return self._places.known(partition)

    async def lag(self) -> list[StreamLag]:
        """Return what each stream lacks in the archive; raise `LogUnavailable`."""
        return list(await asyncio.gather(*map(self._lag, self._streams)))

    async def _lag(self, archiver: StreamArchiver) -> StreamLag:
        state = await stream_state(self._reader, archiver.stream.name)
        backlog = archiver.backlog
        unread = state.last_sequence - (backlog.sequence if backlog else 0)
        waiting, waiting_bytes = (backlog.records, backlog.size_bytes) if backlog else (0, 0)
        size = waiting_bytes + unread * state.size_bytes // max(1, state.messages)
        oldest = backlog.oldest if backlog else ""
        if backlog and not oldest and unread > 0:
            subjects = archiver.stream.subject
            following = await messages_on(self._reader, archiver.stream.name, subjects, backlog.sequence + 1, 1)
            oldest = following[0].headers["Nats-Time-Stamp"] if following else ""
        since = datetime.fromisoformat(oldest).timestamp() if oldest else time.time()
        if backlog is None and state.messages:
            since = archiver.started_at  # the store has not yet told what it has
        seconds = max(0.0, time.time() - since)
        return StreamLag(
            archiver.stream.name, waiting + max(0, unread), size, seconds, archiver.trouble, dict(archiver.stopped)
        )

    async def refresh_metrics(self) -> None:
        """Set the gauges of the lag; they stay as they are while the log is away."""
        try:
            lags = await self.lag()
        except LogError:
            return
        for lag in lags:
            metrics.lag_records.labels(lag.stream).set(lag.records)
            metrics.lag_bytes.labels(lag.stream).set(lag.size_bytes)
            metrics.lag_seconds.labels(lag.stream).set(lag.seconds)
