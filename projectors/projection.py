"""One SQLite file and its position, which move together in one transaction."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import resources
from pathlib import Path

import apsw
from pydantic_core import from_json, to_json

from events.cursor import Cursor, Entry
from events.envelope import Event, Receipt
from projectors.domain import ProjectionSpec
from schemas.ids import PartitionId, Position
from schemas.instants import later

BUSY_TIMEOUT_MS = 5000
WRITER_BUSY_TIMEOUT_MS = 250  # nobody else should write; whoever does must not hold up the event loop
CHECKPOINT_PAGES = 1000
COMMANDS_KEPT_S = 7 * 24 * 3600
EPOCH_START = "1970-01-01T00:00:00.000000Z"


class WrongProjection(Exception):
    """The file belongs to another partition, or to another version of the code."""


@cache
def schema_sql(name: str) -> str:
    """Return the SQL of `schemas/sql/<name>.sql`."""
    return resources.files("schemas").joinpath("sql", f"{name}.sql").read_text()


@cache
def schema_version(schema: str, fold_version: int) -> str:
    """Return a version that changes with the tables of a projection or with `fold_version`."""
    return f"{fold_version}-{hashlib.sha256((schema_sql('projection') + schema).encode()).hexdigest()[:16]}"


class Projection:
    """An open projection. Not thread-safe; one caller at a time, from any thread.

    `cursor` is where it stands, `time` that of the newest event folded.
    """

    def __init__(
        self,
        spec: ProjectionSpec,
        partition: PartitionId,
        path: Path | None = None,
        *,
        durable: bool = True,
        decides: bool = True,
    ) -> None:
        """Open the file, or create it at the partition's start. Raise `WrongProjection`.

        Not `durable`: a file that is thrown away unless it is finished and synced, so it needs no journal on disk.
        Not `decides` (nor durable): only folded, so that nothing has to be guarded against on its connection.
        """
        self.spec = spec
        self.path = path or spec.path
        self._durable = durable
        self._decides = decides and durable
        self._checkpoint_pages = CHECKPOINT_PAGES
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new, begins_wal = not _size(self.path), not _size(f"{self.path}-wal")
        self.db = connect(self.path, busy_timeout_ms=WRITER_BUSY_TIMEOUT_MS)
        self._wal_pages = 0
        self._begins_wal = False
        try:
            self._choose_journal(is_new, begins_wal)
            self._prepare(partition)
        except BaseException:
            self.db.close()
            raise

    def _choose_journal(self, is_new: bool, begins_wal: bool) -> None:
        """Choose journal and syncs; making a file or beginning a WAL needs none.

        A WAL of which nothing, or only a beginning, has reached the disk counts up to there, and SQLite removes one
        beside an empty file. Nothing is folded into the file before WAL and directory are synced.
        """
        if self._durable:
            self.db.set_wal_hook(self._note_wal)  # in the place of SQLite's own, which syncs inside of COMMIT
            self._begins_wal = begins_wal
            pragmas = ["synchronous=NORMAL", "journal_mode=WAL"]
            if is_new:
                pragmas = ["synchronous=OFF", "journal_mode=MEMORY", "journal_mode=WAL"]
            elif begins_wal:
                pragmas.append("synchronous=OFF")
        else:
            pragmas = ["journal_mode=MEMORY", "synchronous=OFF"]
        for pragma in pragmas:
            for _ in self.db.execute(f"PRAGMA {pragma}"):
                pass  # statements that answer rows run only as far as they are read

    def _prepare(self, partition: PartitionId) -> None:
        if not self.db.table_exists("main", "_forge_position"):
            self._create(partition)
        found, version = self.db.execute("SELECT partition, version FROM _forge_position").get
        if found != partition.subject:
            raise WrongProjection(f"{self.path} is a projection of {found}, not of {partition.subject}")
        if version != self.spec.version:
            raise WrongProjection(f"{self.path} has version {version}, this Forge needs {self.spec.version}")
        self.spec.prepare(self.db)
        if not self._decides:
            self.db.authorizer = None
        self.reload()

    def _note_wal(self, db: apsw.Connection, _: str, pages: int) -> int:
        self._wal_pages = pages
        if self._begins_wal:
            self._begins_wal = False
            db.execute("PRAGMA synchronous=NORMAL")
        return apsw.SQLITE_OK

    @property
    def checkpoint_due(self) -> bool:
        """Whether the WAL has grown enough to be folded into the file."""
        return self._wal_pages >= self._checkpoint_pages

    def checkpoint(self) -> None:
        """Fold the WAL into the file, as far as readers allow. Syncs, so callers have been answered before."""
        pages, folded = self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        # While a reader holds it back the WAL goes on growing: not at every commit from then on.
        self._checkpoint_pages = CHECKPOINT_PAGES if pages == folded else pages + CHECKPOINT_PAGES
        self._wal_pages = 0

    def _create(self, partition: PartitionId) -> None:
        start = Cursor.start(partition)
        with self.db:
            self.db.execute(schema_sql("projection"))
            self.db.execute(self.spec.schema)
            self.db.execute(
                "INSERT INTO _forge_position VALUES (1, ?, ?, ?, ?, 0, ?, ?)",
                (partition.subject, *_pair(start.position), start.hash, EPOCH_START, self.spec.version),
            )

    def reload(self) -> None:
        """Read cursor and time again, after a transaction that moved them was undone."""
        self.cursor = read_cursor(self.db)
        self.time: str = self.db.execute("SELECT time FROM _forge_position").get

    def apply(self, events: Sequence[Event]) -> None:
        """Fold events; the caller holds the transaction."""
        self.spec.apply(self.db, events)

    def advance(self, cursor: Cursor, time: str) -> None:
        """Move the position; the caller holds the transaction of the rows it vouches for."""
        self.db.execute(
            "UPDATE _forge_position SET epoch = ?, idx = ?, hash = ?, sequence = ?, time = ?",
            (*_pair(cursor.position), cursor.hash, cursor.sequence, time),
        )
        self.cursor, self.time = cursor, time

    def fold(self, entry: Entry, events: list[Event], *, remembers: bool) -> None:
        """Fold one record of the log, all of it or nothing."""
        self.fold_all([(entry, events)], remembers=remembers)

    def fold_all(self, records: Sequence[tuple[Entry, list[Event]]], *, remembers: bool) -> None:
        """Fold records of the log in their order, all of them or nothing; those that it has are passed over."""
        records = [record for record in records if record[0].cursor.position > self.cursor.position]
        if not records:
            return
        every = [event for _, events in records for event in events]
        with self.transaction():
            self.apply(every)
            for entry, events in records if remembers else ():
                for event in events:
                    if event.receipt:
                        self.remember(event.receipt, entry.cursor.position, event.time)
            self.advance(records[-1][0].cursor, every[-1].time if every else self.time)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside happen or nothing; may be nested."""
        try:
            with self.db:
                yield
        except BaseException:
            self.reload()
            raise

    def remember(self, receipt: Receipt, position: Position, time: str) -> None:
        """Keep the answer of a command for a week of the partition's own time."""
        self.db.execute("DELETE FROM _forge_command WHERE at < ?", (later(time, -COMMANDS_KEPT_S),))
        self.db.execute(
            "INSERT OR REPLACE INTO _forge_command VALUES (?, ?, ?, ?, ?)",
            (receipt.command_id, receipt.fingerprint, str(position), to_json(receipt.answer).decode(), time),
        )

    def remembered(self, command_id: str) -> tuple[Position, Receipt] | None:
        """Return position and receipt of a command that was decided before."""
        row = self.db.execute(
            "SELECT position, fingerprint, answer FROM _forge_command WHERE command_id = ?", (command_id,)
        ).fetchone()
        return (Position.parse(row[0]), Receipt(command_id, row[1], from_json(row[2]))) if row else None

    def close(self) -> None:
        """Close the file; SQLite folds the WAL into it."""
        with suppress(apsw.Error):  # closing tries again, and would do it all without letting other threads run
            self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self.db.close()


def connect(path: Path, *, readonly: bool = False, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> apsw.Connection:
    """Open a SQLite file the way all of Forge does."""
    flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    db = apsw.Connection(str(path), flags=flags)
    db.set_busy_timeout(busy_timeout_ms)
    return db


def read_cursor(db: apsw.Connection) -> Cursor:
    """Return where the projection behind `db` stands."""
    epoch, index, hash_, sequence = db.execute("SELECT epoch, idx, hash, sequence FROM _forge_position").get
    return Cursor(Position(epoch, index), hash_, sequence)


def remove_database(path: Path) -> None:
    """Remove a SQLite file with everything that belongs to it."""
    for suffix in ("-wal", "-shm", "-journal", ""):
        with suppress(FileNotFoundError):
            os.unlink(f"{path}{suffix}")


def _size(path: Path | str) -> int:
    """Return how many bytes a file has, 0 if there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _pair(position: Position) -> tuple[int, int]:
    return position.epoch, position.index
