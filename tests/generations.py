"""A projection and its archived log without a server, and what tests of generations ask of both."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from events.archive import Archive
from events.cursor import Cursor, Entry
from events.envelope import decode_events
from events.objects.errors import ObjectMissing
from events.objects.memory import MemoryStore
from events.segment import seal
from events.streams import stream_of
from projectors.digest import digest
from projectors.domain import Domain, ProjectionSpec
from projectors.generations.fetching import chunk_lists, fetch
from projectors.generations.reading import latest
from projectors.projection import Projection, remove_database
from projectors.threads import Threads
from schemas.archive import ArchivedPlace, SegmentKey, place_key
from schemas.generation import Manifest
from schemas.ids import PartitionId, Position
from schemas.instants import now
from tests.notes import NoteAdded, new_partition, notes_domain, record_after
from workers.generations.arrivals import Arrivals
from workers.generations.budget import Budget
from workers.generations.follower import Generations
from workers.generations.gate import Gate
from workers.generations.making import Maker
from workers.generations.page_tables import PageTables
from workers.generations.progress import Policy
from workers.generations.retention import thin

PREFIX = "p"
SPACE_BYTES = 1 << 30
ARRIVAL_WAIT_S = 0.2


class Written:
    """A partition of notes with its two projections; what is written is archived at once, unless told otherwise."""

    def __init__(
        self, folder: Path, store: MemoryStore | None = None, partition: PartitionId | None = None, epoch: int = 1
    ) -> None:
        self.store = store or MemoryStore()
        self.archive = Archive(self.store, PREFIX)
        self.partition = partition or new_partition()
        self.epoch = epoch
        self.domain: Domain = notes_domain(folder)
        self.specs = self.domain.projections(self.partition.key)
        self.projections = [Projection(spec, self.partition) for spec in self.specs]
        self.digests: dict[Position, str] = {}
        self._cursor = self.projections[0].cursor
        self._unarchived: list[tuple[Cursor, Entry]] = []

    @property
    def position(self) -> Position:
        """Where the log stands."""
        return self._cursor.position

    @property
    def end(self) -> Cursor:
        """The place after the newest record."""
        return self._cursor

    @property
    def spec(self) -> ProjectionSpec:
        """The first projection."""
        return self.specs[0]

    async def write(self, *texts: str, archived: bool = True) -> Position:
        """Write one record for each text."""
        for text in texts:
            before, record = self._cursor, record_after(self._cursor, self.partition, [NoteAdded(text=text)])
            record = replace(record, position=before.position.next(self.epoch))
            self._cursor = Cursor(record.position, record.hash, before.sequence + 1)
            entry = Entry(record, self._cursor)
            self._unarchived.append((before, entry))
            for projection in self.projections:
                events = decode_events(record.json(), self.domain.facts)
                projection.fold(entry, list(events), remembers=False)
            self.digests[record.position] = digest(self.projections[0].db)
        if archived:
            await self.archive_all()
        return self.position

    async def archive_all(self) -> None:
        """Archive what waits, as one segment."""
        if not self._unarchived:
            return
        entries = [entry for _, entry in self._unarchived]
        first, last = entries[0].cursor, entries[-1].cursor
        stream = stream_of(self.partition)
        key = SegmentKey(stream, self.partition, first.position.epoch, first.position.index, last.position.index)
        await self.store.create(self.archive.key(str(key)), seal(self.partition, self._unarchived[0][0], entries))
        place = ArchivedPlace(
            partition=self.partition.subject,
            position=str(last.position),
            hash=last.hash,
            sequence=last.sequence,
            time=None,
        )
        where, body = self.archive.key(place_key(stream, self.partition)), place.model_dump_json().encode()
        try:
            await self.store.swap(where, body, (await self.store.get(where)).tag)
        except ObjectMissing:
            await self.store.create(where, body)
        self._unarchived.clear()

    async def latest(self) -> Manifest | None:
        """Return the current generation of the first projection."""
        return await latest(self.archive, self.spec.name)

    def close(self) -> None:
        """Close the files."""
        for projection in self.projections:
            projection.close()


async def named(archive: Archive, manifest: Manifest) -> set[str]:
    """Return the hashes of all that a generation is made of."""
    chunks = {chunk.cid async for chunks in chunk_lists(archive, manifest) for chunk in chunks}
    return chunks | set(manifest.beside_chunks)


async def fetched(notes: Written, found: Manifest, folder: Path) -> bytes:
    """Return the file of a generation."""
    path = folder / "fetched.db"
    await fetch(notes.archive, found, path)
    data = path.read_bytes()
    remove_database(path)
    return data


@asynccontextmanager
async def written(folder: Path, store: MemoryStore | None = None) -> AsyncIterator[Written]:
    """Give a partition whose files are closed in the end."""
    notes = Written(folder, store)
    try:
        yield notes
    finally:
        notes.close()


@asynccontextmanager
async def making(
    archive: Archive, scratch: Path, *, verify: float = 1.0, gate: Gate | None = None, arrivals: Arrivals | None = None
) -> AsyncIterator[Maker]:
    """Give a maker of generations."""
    with Threads(2) as threads:
        yield Maker(
            archive,
            scratch,
            threads,
            Budget(SPACE_BYTES),
            gate or Gate(),
            arrivals or Arrivals(archive, wait_s=ARRIVAL_WAIT_S),
            PageTables(scratch.with_name("pages"), scratch),
            verify=verify,
            node="test-node",
        )


@asynccontextmanager
async def following(
    archive: Archive, domain: Domain, scratch: Path, policy: Policy, *, keep: int = 100
) -> AsyncIterator[Generations]:
    """Run a follower that is told what was archived."""
    arrivals = Arrivals(archive)

    async def thinned(projection: str) -> None:
        await thin(archive, projection, keep=keep, keep_days=0, now=now())

    async with (
        making(archive, scratch, arrivals=arrivals) as maker,
        Generations(
            archive,
            maker,
            arrivals,
            lambda partition: domain.projections(partition.key),
            thinned,
            policy,
            concurrency=2,
            retry_s=0.02,
        ) as generations,
    ):
        yield generations
