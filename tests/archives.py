"""An archive compared with its log: what tests of the archiver begin and end with."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from events.archive import Archive
from events.archived_place import Place, archived_end, recorded_place
from events.connection import Connection
from events.cursor import Cursor, Entry
from events.log import Log
from events.objects.memory import MemoryStore
from events.objects.port import ObjectStore
from events.read import read
from schemas.archive import SegmentKey
from schemas.facts import Fact
from schemas.ids import START, PartitionId, Position
from tests.notes import NoteAdded, append_note
from workers.archive.archiver import Archiver
from workers.archive.follower import Bounds
from workers.archive.sealing import Archived

BOUNDS = Bounds(seal_s=0.05, seal_bytes=1 << 20, memory_bytes=4 << 20, tell_s=0)
FACTS: Mapping[str, Mapping[str, type[Fact]]] = {"doc": {NoteAdded.TYPE: NoteAdded}}
PREFIX = "p"
WAIT_S = 60.0


def no_payloads(cid: str) -> Path:
    """Say where a payload is, in tests that have none."""
    raise AssertionError(f"nobody names payload {cid}")


@asynccontextmanager
async def archiving(
    event_log: Log,
    store: ObjectStore,
    *,
    bounds: Bounds = BOUNDS,
    facts: Mapping[str, Mapping[str, type[Fact]]] = FACTS,
    payload_path: Callable[[str], Path] = no_payloads,
    archived: Archived = lambda *_: None,
) -> AsyncIterator[Archiver]:
    """Run an archiver of the whole log into `store`."""
    async with Archiver(
        Archive(store, PREFIX),
        event_log,
        facts,
        payload_path,
        bounds,
        node="test-node",
        concurrency=4,
        archived=archived,
    ) as archiver:
        yield archiver


async def written(event_log: Log, partition: PartitionId, notes: int, after: Cursor | None = None) -> Cursor:
    """Append so many notes, one record each; return the cursor after them."""
    cursor = after or Cursor.start(partition)
    for _ in range(notes):
        cursor = await append_note(event_log, partition, cursor, f"note {cursor.position.index + 1}")
    await event_log.live.send(partition.live_subject, b"")
    return cursor


async def archived_up_to(store: ObjectStore, partition: PartitionId, position: Position) -> None:
    """Wait until the archive says that it has reached `position`."""
    await _reached(position, lambda: recorded_place(Archive(store, PREFIX), partition))


async def held_up_to(store: ObjectStore, partition: PartitionId, position: Position) -> None:
    """Wait until the archive has reached `position`, whether it says so or not."""
    await _reached(position, lambda: archived_end(Archive(store, PREFIX), partition))


async def _reached(position: Position, look: Callable[[], Awaitable[Place]]) -> None:
    reached = START
    async with asyncio.timeout(WAIT_S):
        while reached < position:
            await asyncio.sleep(0.02)
            reached = (await look()).cursor.position


async def assert_equal(archive: Archive, connection: Connection, partition: PartitionId) -> None:
    """Fail unless the segments hold exactly the records of the log, each once, and the position says so."""
    log = [entry async for entry in read(connection, partition, Cursor.start(partition))]
    found: list[Entry] = []
    async for key in archive.segments(partition, Position(1, 0)):
        assert key.first == len(found) + 1, f"{key} follows record {len(found)}"
        found += (await archive.segment(key)).entries
    assert [entry.record for entry in found] == [entry.record for entry in log]
    assert (await recorded_place(archive, partition)).cursor.position == log[-1].cursor.position


def segment_keys(store: MemoryStore, partition: PartitionId) -> list[SegmentKey]:
    """Return the segments of a partition that are stored."""
    found = [key.removeprefix(f"{PREFIX}/") for key in sorted(store.objects) if key.endswith(".seg")]
    return [key for key in map(SegmentKey.parse, found) if key.partition == partition]
