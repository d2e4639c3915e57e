"""A small domain on the log of a real server, for tests of what all domains share."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import apsw
from ulid import ULID

from events.append import Appended, append
from events.cursor import Cursor
from events.envelope import Event, encode_event
from events.log import Log
from events.record import Record, encode_payload
from events.streams import ensure_streams
from forge.stack.nats import NatsServer
from projectors.domain import Decision, Domain, ProjectionSpec
from projectors.partition import Partition
from projectors.threads import Threads
from schemas.facts import Command, Fact, facts_by_type
from schemas.ids import PartitionId
from schemas.problems import CONFLICT, Refusal

TIME = "2026-01-02T03:04:05.000006Z"
SCHEMA = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL, at TEXT NOT NULL)"
COUNT_SCHEMA = "CREATE TABLE length (text TEXT PRIMARY KEY, characters INTEGER NOT NULL) WITHOUT ROWID"
_numbers = itertools.count(1)


class NoteAdded(Fact):
    """A note was written down."""

    TYPE: ClassVar[str] = "forge.note.note.added"
    text: str

    @property
    def subject(self) -> str:
        """The note."""
        return self.text[:20]


class AddNotes(Command):
    """Write notes down; `refused`, `broken` say how deciding ends instead."""

    texts: tuple[str, ...] = ()
    refused: bool = False
    broken: bool = False


def decide(db: apsw.Connection, command: Command, now: str) -> Decision:
    """Write every note down and answer how many there are."""
    assert isinstance(command, AddNotes)
    before = db.execute("SELECT count(*) FROM note").get
    if command.refused:
        raise Refusal(CONFLICT.problem("refused, as asked"))
    if command.broken:
        db.execute("INSERT INTO note (text, at) VALUES ('half done', '')")
        raise RuntimeError("broken, as asked")
    return Decision([NoteAdded(text=text) for text in command.texts], {"notes": before + len(command.texts)})


def fold_notes(db: apsw.Connection, events: Sequence[Event]) -> None:
    """Fold into the first projection."""
    for event in events:
        assert isinstance(event.fact, NoteAdded)
        db.execute("INSERT INTO note (text, at) VALUES (?, ?)", (event.fact.text, event.time))


def fold_lengths(db: apsw.Connection, events: Sequence[Event]) -> None:
    """Fold into the second projection."""
    for event in events:
        assert isinstance(event.fact, NoteAdded)
        db.execute("INSERT OR REPLACE INTO length VALUES (?, ?)", (event.fact.text, len(event.fact.text)))


def notes_domain(directory: Path, *, version: str = "1", **changes: Any) -> Domain:
    """Return the domain with its two projections in `directory`; `changes` replace `decide` and so on."""
    specs = (
        ProjectionSpec("notes", directory / "notes.db", SCHEMA, changes.pop("fold", fold_notes), version),
        ProjectionSpec("lengths", directory / "lengths.db", COUNT_SCHEMA, fold_lengths, version),
    )
    return Domain("doc", facts_by_type(NoteAdded), {}, lambda _: specs, changes.pop("decide", decide))


def new_partition() -> PartitionId:
    """Return a partition that nobody else uses."""
    return PartitionId("doc", f"notes-{next(_numbers)}-{str(ULID()).lower()}")


def through(url: str, port: int) -> str:
    """Return a NATS URL that leads to `port` instead."""
    return url.replace(f":{urlsplit(url).port}", f":{port}")


@asynccontextmanager
async def opened_log(server: NatsServer, *, writer_port: int | None = None) -> AsyncIterator[Log]:
    """Open the log of `server` with all streams made; the writer may go through a proxy at `writer_port`."""
    writer_url = through(server.log_url, writer_port) if writer_port else server.log_url
    event_log = Log(
        writer_url,
        server.monitor_url,
        reader_url=server.read_url,
        live_url=server.live_url,
        admin_url=server.admin_url,
    )
    try:
        await ensure_streams(await event_log.admin.jetstream(), 1)
        yield event_log
    finally:
        await event_log.close()


@asynccontextmanager
async def opened_partition(event_log: Log, partition: PartitionId, domain: Domain) -> AsyncIterator[Partition]:
    """Run the commit loop of one partition."""
    with Threads(2) as threads:
        running = Partition(partition, domain, event_log, threads, node="test-node")
        try:
            yield running
        finally:
            await running.close()


def record_after(
    cursor: Cursor, partition: PartitionId, facts: Sequence[Fact] = (), *, node: str = "test-node", time: str = TIME
) -> Record:
    """Return a new record of `facts` that follows `cursor`."""
    record_id = str(ULID())
    events = [Event(f"{record_id}/{n}", f"/forge/node/{node}", time, "root", fact) for n, fact in enumerate(facts)]
    payload, encoding = encode_payload([encode_event(event) for event in events])
    return Record(partition, cursor.position.next(), cursor.hash, record_id, node, payload, encoding)


async def append_note(event_log: Log, partition: PartitionId, cursor: Cursor, text: str = "a note") -> Cursor:
    """Append one note after `cursor` as a writer of its own would; return the cursor after it."""
    record = record_after(cursor, partition, [NoteAdded(text=text)])
    outcome = await append(event_log.writer, record, cursor.sequence)
    assert isinstance(outcome, Appended), outcome
    return Cursor(record.position, record.hash, outcome.sequence)


async def eventually(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - conditions of other processes have no event to wait for
            await asyncio.sleep(0.01)


def texts(directory: Path) -> list[str]:
    """Return all notes of the first projection, in order."""
    db = apsw.Connection(str(directory / "notes.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return [str(row[0]) for row in db.execute("SELECT text FROM note ORDER BY id")]
    finally:
        db.close()
