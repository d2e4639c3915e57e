"""Looking into `control.db` from the event loop: one read-only connection, for queries of some microseconds."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw

from projectors.projection import connect
from schemas.problems import UNAVAILABLE, Refusal

T = TypeVar("T")


class ControlReader:
    """One connection, opened when first needed. Not for threads."""

    def __init__(self, path: Path, caught_up: Callable[[], bool]) -> None:
        """`caught_up` says whether the projection has been at the end of the log in this process."""
        self._path = path
        self._caught_up = caught_up
        self._seen_caught_up = False  # it stays so: only this node's commit loop writes what it decides
        self._db: apsw.Connection | None = None
        self._inode = 0

    def read(self, query: Callable[[apsw.Connection], T]) -> T:
        """Return what `query` finds; raise `Refusal` (503) while what is here may be out of date.

        An old state could let in somebody whose token was revoked.
        """
        if not self._seen_caught_up:
            if not self._caught_up():
                raise Refusal(UNAVAILABLE.problem("the control plane is not open yet: nobody can tell who may do what"))
            self._seen_caught_up = True
        return query(self._connection())

    def _connection(self) -> apsw.Connection:
        inode = self._path.stat().st_ino
        if self._db is None or inode != self._inode:  # a rebuild has put another file in its place
            self.close()
            self._db, self._inode = connect(self._path, readonly=True), inode
        return self._db

    def close(self) -> None:
        """Close the connection."""
        if self._db is not None:
            self._db.close()
            self._db = None
