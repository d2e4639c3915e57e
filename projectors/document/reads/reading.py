"""Queries of documents beside their writers: in threads, on guarded connections, each on one state."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import apsw

from projectors.document.domain import document_partition, document_path
from projectors.document.reads.reader import Reader, inode_of
from projectors.document.reads.turns import Turns
from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.sandbox import guard_of
from projectors.partitions import Partitions
from projectors.threads import Threads
from schemas.ids import PartitionId, Position
from schemas.problems import NO_SYSTEM_TABLE, UNAVAILABLE, Refusal

THREADS = 8  # queries at a time, of all documents
PER_DOCUMENT = 4  # of them of one document; so many idle connections to it are kept
IDLE_MAX = 256  # idle connections kept in all
OPEN_WAIT_S = 10.0

T = TypeVar("T")


class Use:
    """A connection in the hands of one caller."""

    __slots__ = ("document", "interrupted", "reader")

    def __init__(self, document: "Document") -> None:
        self.document = document
        self.reader: Reader | None = None
        self.interrupted = False

    def interrupt(self) -> None:
        """Make what runs on it fail."""
        self.interrupted = True
        if self.reader is not None:
            self.reader.abandon()


class Document:
    """What is kept of a document that is read: its idle connections."""

    __slots__ = ("closed", "db_id", "idle", "partition", "path", "was_open")

    def __init__(self, db_id: str, path: Path) -> None:
        self.db_id = db_id
        self.partition: PartitionId = document_partition(db_id)
        self.path = path
        self.idle: list[Reader] = []
        self.was_open = False
        self.closed = False


class DocumentReaders:
    """The readers of all documents of a node.

    At most `threads` queries run at a time, `per_document` of them of one document; more wait, bounded. Connections
    to a document are closed together with its partition.
    """

    def __init__(
        self,
        partitions: Partitions,
        docs_dir: Path,
        bounds: SqlBounds,
        *,
        threads: int = THREADS,
        per_document: int = PER_DOCUMENT,
        idle_max: int = IDLE_MAX,
        prepare: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """`prepare` sees to it that a document has its system tables; raise `Refusal` if it cannot have them."""
        self._prepare = prepare
        self.bounds = bounds
        self.turns = Turns(threads, per_document)
        self._partitions = partitions
        self._docs_dir = docs_dir
        self._per_document = per_document
        self._idle_max = idle_max
        self._threads = Threads(threads, "document reader")
        self._documents: dict[str, Document] = {}
        self._idle: OrderedDict[Reader, Document] = OrderedDict()
        self._uses: set[Use] = set()
        self._closed = False
        partitions.on_close(self._partition_closes)

    async def read(self, db_id: str, query: Callable[[apsw.Connection], T], *, timeout_s: float) -> tuple[T, Position]:
        """Return what `query` makes of a connection, and the position of the one state that it sees.

        It runs under the guard, which allows reads and interrupts it after `timeout_s` (waiting does not count). If the
        caller is cancelled it is interrupted at once. Raise `Refusal`.
        """

        def guarded(reader: Reader) -> T:
            with guard_of(reader.db).reading(time.monotonic() + timeout_s):
                return query(reader.db)

        return await self.run(db_id, guarded)

    async def run(self, db_id: str, work: Callable[[Reader], T], *, path: Path | None = None) -> tuple[T, Position]:
        """Return what `work` makes of a reader, as `read` does; it chooses the guard's mode itself.

        `path` is a file to read instead, with the document as it was.
        """
        use = await self.take(db_id) if path is None else self.take_file(db_id, path)
        try:
            return await self.turn(use, _on_one_state, work)
        finally:
            self.put(use)

    def run_here(self, db_id: str, work: Callable[[Reader], T]) -> tuple[T, Position] | None:
        """Do what `run` does at once, on the event loop; None if no connection is idle. For what is surely quick."""
        document = self._documents.get(db_id)
        if document is None or not document.idle or self._partitions.find(document.partition) is None:
            return None
        self._partitions[document.partition].used()
        use = Use(document)
        self._reuse(use)
        if use.reader is None:
            return None
        use.reader.wait_for_locks(False)
        try:
            return _on_one_state(use.reader, work)
        except apsw.BusyError:
            return None
        finally:
            use.reader.wait_for_locks(True)
            self.put(use)

    async def take(self, db_id: str) -> Use:
        """Return a connection, or the promise of one, for the caller alone, once the document is open and caught up."""
        if self._closed:
            raise Refusal(UNAVAILABLE.problem("this node is stopping"))
        document = self._documents.get(db_id)
        if document is None:
            document = self._documents[db_id] = Document(db_id, document_path(self._docs_dir, db_id))
        partition = self._partitions[document.partition]
        # When the log is away later on, what was committed before can still be read.
        if partition.position is None and not document.was_open:
            await partition.ready(OPEN_WAIT_S)
        document.was_open = True
        use = Use(document)
        self._uses.add(use)
        return use

    def take_file(self, db_id: str, path: Path) -> Use:
        """Return a connection to a file that nobody changes; it is the document's turn too, and is not kept."""
        if self._closed:
            raise Refusal(UNAVAILABLE.problem("this node is stopping"))
        document = Document(db_id, path)
        document.closed = True
        use = Use(document)
        self._uses.add(use)
        return use

    async def turn(self, use: Use, work: Callable[..., T], *arguments: Any) -> T:
        """Call `work(reader, *arguments)` in a thread when it is the document's turn, and return what it returns.

        If it needs a system table that the document does not have yet, that is made.
        """
        try:
            return await self._turn(use, work, *arguments)
        except Refusal as refusal:
            missing = refusal.problem.type == NO_SYSTEM_TABLE.uri and not use.document.closed
            if not missing or self._prepare is None:
                raise
        await self._prepare(use.document.db_id)
        return await self._turn(use, work, *arguments)

    async def _turn(self, use: Use, work: Callable[..., T], *arguments: Any) -> T:
        await self.turns.take(use.document.db_id)
        try:
            if use.reader is None:
                self._reuse(use)
            return await self._threads.run(self._in_thread, use, work, arguments, interrupt=use.interrupt)
        finally:
            self.turns.give(use.document.db_id)

    def put(self, use: Use) -> None:
        """Take a connection back; it is kept if its state was let go."""
        self._uses.discard(use)
        reader, document = use.reader, use.document
        if reader is None:
            return
        full = len(document.idle) >= self._per_document
        if self._closed or document.closed or full or use.interrupted or reader.db.in_transaction:
            reader.close()
            return
        document.idle.append(reader)
        self._idle[reader] = document
        if len(self._idle) > self._idle_max:
            oldest, of = self._idle.popitem(last=False)
            of.idle.remove(oldest)
            oldest.close()

    def _reuse(self, use: Use) -> None:
        """Give it an idle connection to the file that is there now, if there is one."""
        idle = use.document.idle
        inode = inode_of(use.document.path) if idle else 0
        while idle:
            reader = idle.pop()
            del self._idle[reader]
            if reader.inode == inode:
                use.reader = reader
                return
            reader.close()

    def _in_thread(self, use: Use, work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        if use.reader is None:
            try:
                use.reader = Reader(use.document.path, self.bounds)
            except apsw.CantOpenError as error:
                raise Refusal(UNAVAILABLE.problem(f"{use.document.db_id} cannot be opened now")) from error
        if use.interrupted:  # while there was nothing to interrupt
            raise Refusal(UNAVAILABLE.problem("the query was cancelled"))
        return work(use.reader, *arguments)

    def _partition_closes(self, partition: PartitionId) -> None:
        document = self._documents.get(partition.key)
        if document is None or document.partition != partition:
            return
        del self._documents[partition.key]
        document.closed = True
        for reader in document.idle:
            del self._idle[reader]
            reader.close()
        document.idle.clear()

    async def close(self) -> None:
        """Interrupt what runs, and close all connections."""
        self._closed = True
        for use in self._uses:
            use.interrupt()
        await asyncio.to_thread(self._threads.close)
        for reader in self._idle:
            reader.close()
        self._idle.clear()
        self._documents.clear()


def _on_one_state(reader: Reader, work: Callable[[Reader], T]) -> tuple[T, Position]:
    position = reader.begin()
    try:
        return work(reader), position
    finally:
        reader.end()
