"""A guarded read-only connection to one document."""

import os
from contextlib import suppress
from pathlib import Path

import apsw

from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.sandbox import configure_reader
from projectors.projection import BUSY_TIMEOUT_MS, connect
from schemas.ids import Position

OURS = apsw.SQLITE_PREPARE_PERSISTENT
"""Ours are cached apart, so that no statement of a user is found in the place of one that the guard let us prepare."""


class Reader:
    """One caller at a time, from any thread; only `abandon` may come from another at the same time.

    `inode` is that of the file that was there when it was opened.
    """

    __slots__ = ("_guard", "db", "inode")

    def __init__(self, path: Path, bounds: SqlBounds) -> None:
        """Raise `apsw.CantOpenError` if there is no file."""
        self.inode = inode_of(path)
        self.db = connect(path, readonly=True)
        try:
            self._guard = configure_reader(self.db, bounds)
        except BaseException:
            self.db.close()
            raise

    def begin(self) -> Position:
        """See one state of the document from now on, and return its position."""
        self.db.execute("BEGIN", prepare_flags=OURS)
        epoch, index = self.db.execute("SELECT epoch, idx FROM main._forge_position", prepare_flags=OURS).get
        return Position(epoch, index)

    def end(self) -> None:
        """Let that state go."""
        if self.db.in_transaction:  # an error may have ended it
            self.db.execute("COMMIT", prepare_flags=OURS)

    def wait_for_locks(self, wait: bool) -> None:
        """Choose whether a lock that another connection holds is waited for, or an error at once."""
        self.db.set_busy_timeout(BUSY_TIMEOUT_MS if wait else 0)

    def abandon(self) -> None:
        """Make the statement that runs fail, and any that follows: nobody waits for it any more."""
        self._guard.abandon()

    def close(self) -> None:
        """Close the connection; it must be idle."""
        with suppress(apsw.Error):  # it only reads, there is nothing to lose
            self.db.close()


def inode_of(path: Path) -> int:
    """Return which file lies at `path` now, 0 if none: a rebuild puts another one in its place."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0
