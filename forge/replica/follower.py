"""Keep one SQLite file following a document: bootstrap, catch up, go live, and start anew if it must."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, Self

import apsw
import structlog

from events.chunk import Chunk, ForeignHistory
from events.cursor import Cursor, Entry
from events.errors import MalformedRecord, UnknownEvent
from forge.client.errors import ForgeError, NodeUnreachable
from forge.client.retry import RETRIED_STATUSES
from forge.client.transport import Transport
from forge.replica import download, snapshot
from forge.replica.chunks import WAIT_MS, Chunks
from forge.replica.download import SnapshotHead
from forge.replica.errors import Diverged, FileRefused, SnapshotRefused
from forge.replica.file import ReplicaFile, set_aside
from forge.replica.identity import Identity
from forge.replica.lock import FollowerLock
from forge.replica.status import State, Status
from projectors.catch_up import FoldFailed
from projectors.threads import Threads
from schemas.ids import Position, parse_db_id
from schemas.problems import DOCUMENT_DELETED, REPLICA_RECALLED

SNAPSHOT_ATTEMPTS = 3
_CONFLICT, _GONE, _BEYOND = 409, 410, 416

log = structlog.get_logger(__name__)


class NeedsReseed(Exception):
    """The file cannot go on from where it stands.

    `diverged`: it holds something that the node does not. `recalled`: its node wants it to take a new copy.
    """

    def __init__(self, why: str, *, diverged: bool, recalled: bool = False) -> None:
        super().__init__(why)
        self.diverged = diverged
        self.recalled = recalled


class Follower:
    """`open`, then `catch_up` or `follow`; `close` at the end. `heard` is called whenever the status changes."""

    def __init__(
        self,
        transport: Transport,
        db_id: str,
        path: Path,
        *,
        heard: Callable[[Status], None] = lambda _: None,
        kind: str = "file",
        reseeds: bool = True,
        wait_ms: int = WAIT_MS,
    ) -> None:
        """`kind` is what the node is told that it is; unless it `reseeds`, it stops where only a new copy helps.

        At the head it asks for news every `wait_ms` at least.
        """
        self._transport = transport
        self.db_id = parse_db_id(db_id)
        self.path = path.absolute()
        self._heard = heard
        self._kind = kind
        self._reseeds = reseeds
        self._wait_ms = wait_ms
        self._identity: Identity | None = None
        self._chunks = Chunks(transport, self.db_id)
        self._threads = Threads(1, "replica")
        self._lock: FollowerLock | None = None
        self._file: ReplicaFile | None = None
        self._fresh: Position | None = None  # where the last snapshot stood, as long as nothing followed it
        self.status = Status("bootstrapping")
        self.fresh_at: float | None = None  # when nothing was missing, by a steady clock
        self._told = False

    @property
    def file(self) -> ReplicaFile:
        """The open file."""
        assert self._file is not None, "the replica is not open"
        return self._file

    async def open(self, *, reseed: bool = False, content: bool = False) -> Self:
        """Lock and open the file, or make it from a snapshot. Raise `ReplicaError` or `ClientError`.

        `reseed` sets an existing replica aside first; `content` compares the digest of a snapshot before it is used.
        """
        self._lock = FollowerLock.take(self.path)
        if self.path.exists():
            if not reseed:
                self._file = await self._threads.run(ReplicaFile.open, self.path, self.db_id)
                self._identity = await self._threads.run(self.file.identity, self._kind)
                self._tell("catching_up")
                return self
            position, self._identity = await self._threads.run(ReplicaFile.stands, self.path, self.db_id)
            await self._threads.run(set_aside, self.path, f"diverged-{position}")
        await self._bootstrap(content=content)
        return self

    async def close(self) -> None:
        """Close the file and let it go."""
        await self._close_file()
        self._threads.close()
        if self._lock:
            self._lock.release()

    async def digest(self) -> str:
        """Return the digest of the content, which stands still meanwhile."""
        return await self._threads.run(self.file.digest)

    async def catch_up(self, until: Position | None = None) -> None:
        """Fold everything that the node has now, or exactly up to `until`. Raise `ClientError` if it goes away."""
        await self._guarded(until=until, endless=False)

    async def follow(self) -> NoReturn:
        """Stay at the end of the document's history for ever, through absences of the node and full disks.

        Raise `ReplicaError` or `ForgeError` when waiting will not help.
        """
        failures = 0
        while True:
            before = self.file.cursor.position if self._file else None
            try:
                await self._guarded(until=None, endless=True)
            except (NodeUnreachable, ForgeError, apsw.FullError, apsw.IOError, OSError, SnapshotRefused) as error:
                if isinstance(error, ForgeError) and error.status not in RETRIED_STATUSES:
                    raise
                moved = self._file is not None and self.file.cursor.position != before
                failures = 1 if moved else failures + 1
                self._tell("stalled", str(error))
                asked_s = error.retry_after if isinstance(error, ForgeError) else None
                await self._transport.sleep(self._transport.retry.wait_s(failures, asked_s))

    async def _guarded(self, *, until: Position | None, endless: bool) -> None:
        """Advance, reseeding when that is what it takes."""
        while True:
            try:
                if self._file is None:
                    await self._bootstrap()
                return await self._advance(until=until, endless=endless)
            except NeedsReseed as error:
                await self._reseed(error)

    async def _advance(self, *, until: Position | None, endless: bool) -> None:
        """Fold chunk after chunk; the next one is on its way while one is folded, unless that is the last for now.

        For whoever then waits for news tells its node where it stands, which is to be true.
        """
        chunk = await self._fetch(self.file.cursor, wait=False)
        while True:
            entries = [entry for entry in chunk.entries if until is None or entry.cursor.position <= until]
            cursor, head = chunk.cursor, Position.parse(chunk.head.head)
            last = cursor.position >= until if until is not None else chunk.head.eof and not endless
            eof, arrived_at = chunk.head.eof, time.monotonic()
            coming = None if last or eof else asyncio.create_task(self._fetch(cursor, wait=False))
            try:
                await self._fold(entries)
                if eof:
                    self.fresh_at = arrived_at
                self._tell("live" if eof else "catching_up", head=head)
                if last:
                    return
                chunk = await (coming or self._fetch(cursor, wait=True))
            finally:
                if coming is not None and not coming.done():
                    coming.cancel()
                    with suppress(asyncio.CancelledError):
                        await coming
                elif coming is not None and not coming.cancelled():
                    coming.exception()  # it was seen, or the fold's own failure comes first

    async def _fetch(self, after: Cursor, *, wait: bool) -> Chunk:
        assert self._identity is not None, "the replica is not open"
        told = self._identity.asked | {"applied": str(self.file.cursor.position)}
        try:
            return await self._chunks.fetch(after, wait_ms=self._wait_ms if wait else 0, told=told)
        except ForeignHistory as error:
            raise NeedsReseed(str(error), diverged=True) from error
        except ForgeError as error:
            if error.status == _CONFLICT:
                raise NeedsReseed(error.detail, diverged=True) from error
            if error.status == _GONE and error.type != DOCUMENT_DELETED.uri:
                recalled = error.type == REPLICA_RECALLED.uri
                raise NeedsReseed(error.detail, diverged=False, recalled=recalled) from error
            if error.status == _BEYOND:
                raise FileRefused(
                    "ahead",
                    f"{self.path} stands at {after.position}, and the node says: {error.detail}. It lost a part of its "
                    "history, or is an older copy of it",
                    "bring the newer node back; or give up what it lost with --reseed, which keeps the file aside",
                ) from error
            raise

    async def _fold(self, entries: list[Entry]) -> None:
        try:
            await self._threads.run(self.file.fold, entries)
        except (UnknownEvent, MalformedRecord):
            raise
        except FoldFailed as error:
            raise NeedsReseed(str(error), diverged=True) from error
        if entries:
            self._fresh = None

    async def _reseed(self, reason: NeedsReseed) -> None:
        """Take a new copy and keep the file aside; raise `Diverged` if it is itself one that nothing could follow."""
        position = self.file.cursor.position
        if not self._reseeds:
            raise FileRefused("out-of-date", f"{self.path} cannot go on: {reason}", "take a new copy with --reseed")
        if self._fresh == position and not reason.recalled:
            raise Diverged(
                f"the node's history does not continue from its own snapshot at {position}: {reason}",
                "check the node with `forge rebuild --verify`",
            ) from reason
        self._tell("needs_reseed", str(reason))
        head, identity = await self._gather(content=False)  # until it is here the old file can still be read
        await self._close_file()
        kept = await self._threads.run(set_aside, self.path, f"diverged-{position}")
        log.warning("taking a new copy", replica=str(self.path), kept=str(kept), reason=str(reason))
        self.status = replace(self.status, reseeds=self.status.reseeds + 1)
        await self._install(head, identity)

    async def _bootstrap(self, *, content: bool = False) -> None:
        self._tell("bootstrapping")
        await self._install(*await self._gather(content=content))

    async def _gather(self, *, content: bool) -> tuple[SnapshotHead, Identity]:
        """Get a snapshot and check it; `SnapshotRefused` after some attempts that brought no good one.

        Return also who the replica will be with it.
        """
        gathered = download.download_path(self.path)
        identity = (self._identity or Identity.new(self._kind)).with_new_copy()
        for left in reversed(range(SNAPSHOT_ATTEMPTS)):
            head = await snapshot.fetch(self._transport, self.db_id, gathered, identity)
            try:
                await self._threads.run(download.check, gathered, self.db_id, head, content)
                break
            except SnapshotRefused:
                await self._threads.run(download.discard, gathered)
                if not left:
                    raise
        return head, identity

    async def _install(self, head: SnapshotHead, identity: Identity) -> None:
        gathered = download.download_path(self.path)
        await self._threads.run(download.install, gathered, self.path, self._transport.url, identity)
        self._identity = identity
        self._file = await self._threads.run(ReplicaFile.open, self.path, self.db_id)
        self._fresh = self.file.cursor.position
        self._tell("catching_up", head=head.position)

    async def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            await self._threads.run(file.close)

    def _tell(self, state: State, why: str = "", *, head: Position | None = None) -> None:
        position = self.file.cursor.position if self._file else None
        status = replace(self.status, state=state, position=position, head=head or self.status.head, why=why)
        if status != self.status or not self._told:
            self.status, self._told = status, True
            self._heard(status)
