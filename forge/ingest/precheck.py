"""A local copy of the embeddings database, asked before the node is."""

from collections.abc import Sequence
from pathlib import Path

import apsw

from forge.ingest.content import Kind

_TABLES: dict[Kind, str] = {"image": "image_embeddings", "text": "text_embeddings"}
HASHES_PER_QUERY = 500


class UnusableCopy(Exception):
    """The file is not a copy of an embeddings database."""


class LocalCopy:
    """An open, read-only copy of `embeddings.db`."""

    def __init__(self, path: Path, kind: Kind) -> None:
        try:
            self._db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            self._table = _TABLES[kind]
            self._db.execute(f"SELECT hash FROM {self._table} LIMIT 1").fetchall()
        except apsw.Error as error:
            raise UnusableCopy(f"{path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def holds(self, digests: Sequence[bytes]) -> set[bytes]:
        """Return those of `digests` that have an embedding in the copy."""
        held: set[bytes] = set()
        for start in range(0, len(digests), HASHES_PER_QUERY):
            part = [digest.hex() for digest in digests[start : start + HASHES_PER_QUERY]]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(f"SELECT hash FROM {self._table} WHERE hash IN ({marks})", part)
            held.update(bytes.fromhex(row[0]) for row in rows)
        return held
