"""Which chunks are named, and since when others are not: in a file, as there may be more than memory holds."""

from collections.abc import Sequence
from pathlib import Path

import apsw

from projectors.projection import connect, remove_database

_KEPT = """
CREATE TABLE IF NOT EXISTS unnamed (cid TEXT PRIMARY KEY, since REAL NOT NULL, sweep REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ended (at REAL NOT NULL);
"""
_OF_THIS_SWEEP = "CREATE TEMP TABLE named (cid TEXT PRIMARY KEY) WITHOUT ROWID"


class Marks:
    """What one sweep finds, and what earlier ones found. A damaged file is begun anew: chunks stay longer then."""

    def __init__(self, path: Path) -> None:
        """Open the file, or begin it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open(path)
        except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError):
            remove_database(path)
            self._open(path)

    def _open(self, path: Path) -> None:
        self._db = connect(path)
        try:
            for _ in self._db.execute("PRAGMA temp_store=FILE; PRAGMA synchronous=NORMAL"):
                pass
            self._db.execute(_KEPT)
            self._db.execute(_OF_THIS_SWEEP)
        except BaseException:
            self._db.close()
            raise

    def name(self, cids: Sequence[str]) -> None:
        """Note that a generation names `cids`: when it is gone, their time begins anew."""
        told = [(cid,) for cid in cids]
        with self._db:
            self._db.executemany("INSERT OR IGNORE INTO named VALUES (?)", told)
            self._db.executemany("DELETE FROM unnamed WHERE cid = ?", told)

    def look(self, cids: Sequence[str], now_s: float) -> int:
        """Note that `cids` are stored, and return how many of them nothing names."""
        unnamed = 0
        with self._db:
            for cid in cids:
                if self._db.execute("SELECT 1 FROM named WHERE cid = ?", (cid,)).get:
                    continue
                unnamed += 1
                self._db.execute(
                    "INSERT INTO unnamed VALUES (?, ?, ?) ON CONFLICT (cid) DO UPDATE SET sweep = excluded.sweep",
                    (cid, now_s, now_s),
                )
        return unnamed

    def unnamed(self, before_s: float, limit: int) -> list[str]:
        """Return some chunks that are unnamed since `before_s` or longer, and were now."""
        query = "SELECT cid FROM unnamed WHERE since <= ? AND cid NOT IN (SELECT cid FROM named) LIMIT ?"
        return [str(cid) for (cid,) in self._db.execute(query, (before_s, limit))]

    def forget(self, cids: Sequence[str]) -> None:
        """Note that `cids` are gone."""
        with self._db:
            self._db.executemany("DELETE FROM unnamed WHERE cid = ?", [(cid,) for cid in cids])

    def end(self, now_s: float) -> int:
        """Note that a sweep of `now_s` came to its end; return how many chunks are named."""
        with self._db:
            self._db.execute("DELETE FROM unnamed WHERE sweep < ?", (now_s,))  # gone
            self._db.execute("DELETE FROM ended")
            self._db.execute("INSERT INTO ended VALUES (?)", (now_s,))
        return int(self._db.execute("SELECT count(*) FROM named").get)

    @property
    def ended_at(self) -> float:
        """When the last sweep came to its end, 0 if none has."""
        return float(self._db.execute("SELECT coalesce(max(at), 0.0) FROM ended").get)

    def close(self) -> None:
        """Close the file."""
        self._db.close()
