"""Read-only connections to a projection, for queries beside the writer."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import Empty, LifoQueue
from typing import NamedTuple, TypeVar

import apsw

from projectors.projection import connect
from projectors.threads import Threads
from schemas.problems import UNAVAILABLE, Refusal

WAITING_MAX = 1024

T = TypeVar("T")


class Readers:
    """Some connections to one projection; each query gets one for itself, in a thread."""

    def __init__(self, path: Path, ready: Callable[[], Awaitable[None]], *, connections: int = 4) -> None:
        """`ready` waits until the projection can be read, or raises `Refusal` with the reason why it cannot."""
        self._path = path
        self._ready = ready
        self._threads = Threads(connections, f"read {path.name}")
        self._idle: LifoQueue[_Reader] = LifoQueue()
        self._running = 0

    async def read(self, query: Callable[[apsw.Connection], T]) -> T:
        """Return what `query` makes of a connection; all it reads is one state of the projection.

        Raise `Refusal` (503) if `WAITING_MAX` queries wait already, or if there is no projection yet.
        """
        if self._running >= WAITING_MAX:
            raise Refusal(UNAVAILABLE.problem(f"{WAITING_MAX} queries of {self._path.name} are waiting"))
        self._running += 1
        try:
            try:
                return await self._threads.run(self._in_thread, query)
            except (apsw.CantOpenError, apsw.SQLError):  # before it is first opened there is no file, or no table
                await self._ready()
                return await self._threads.run(self._in_thread, query)
        finally:
            self._running -= 1

    def _in_thread(self, query: Callable[[apsw.Connection], T]) -> T:
        reader = self._take()
        try:
            reader.db.execute("BEGIN")
            result = query(reader.db)
            reader.db.execute("COMMIT")
        except BaseException:
            reader.db.close()
            raise
        self._idle.put(reader)
        return result

    def _take(self) -> "_Reader":
        """Return an idle connection to the file that is there now: a rebuild may have put another in its place."""
        inode = self._path.stat().st_ino if self._path.exists() else 0
        while True:
            try:
                reader = self._idle.get_nowait()
            except Empty:
                return _Reader(connect(self._path, readonly=True), inode)
            if reader.inode == inode:
                return reader
            reader.db.close()

    def close(self) -> None:
        """Close all connections; running queries end first."""
        self._threads.close()
        while not self._idle.empty():
            self._idle.get_nowait().db.close()


class _Reader(NamedTuple):
    """A connection, and the file that it is open on."""

    db: apsw.Connection
    inode: int
