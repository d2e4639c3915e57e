"""The folder of page tables: one file for each projection, the oldest ones removed when there are too many."""

import os
from contextlib import suppress
from pathlib import Path

import structlog
from blake3 import blake3
from ulid import ULID

from workers.generations.page_table import Damaged, PageTable, read_table

TABLES_MAX = 4096
TABLES_BYTES_MAX = 512 << 20
TABLE_BYTES_MAX = 128 << 20  # what one takes in memory, twice while it is read

log = structlog.get_logger(__name__)


class PageTables:
    """Tables by projection. Losing one costs bytes in the archive, no more: chunks are stored whole then."""

    def __init__(
        self, folder: Path, scratch: Path, *, tables_max: int = TABLES_MAX, bytes_max: int = TABLES_BYTES_MAX
    ) -> None:
        """Tables lie in `folder`; one is written in `scratch` first, on the same disk."""
        self._folder = folder
        self._scratch = scratch
        self._tables_max = tables_max
        self._bytes_max = bytes_max

    def read(self, projection: str, manifest: str) -> PageTable | None:
        """Return the table of the generation whose manifest has the BLAKE3 `manifest`, None if it is not here."""
        path = self._path(projection)
        try:
            if path.stat().st_size > TABLE_BYTES_MAX:
                return None
            table = read_table(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, Damaged) as error:
            log.warning("table of pages not usable", projection=projection, reason=str(error))
            return None
        return table if table.manifest == manifest else None

    def write(self, projection: str, table: PageTable) -> None:
        """Remember a table instead of the one before. It is not synced: what a power cut leaves is recognised."""
        data = bytes(table)
        if len(data) > TABLE_BYTES_MAX:
            self.remove(projection)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._scratch / f"{ULID()}.pages"
        try:
            new.write_bytes(data)
            os.replace(new, self._path(projection))
        except OSError:
            new.unlink(missing_ok=True)
            raise
        self._make_room()

    def remove(self, projection: str) -> None:
        """Forget the table of a projection."""
        self._path(projection).unlink(missing_ok=True)

    def _path(self, projection: str) -> Path:
        return self._folder / f"{blake3(projection.encode()).hexdigest(length=16)}.pages"

    def _make_room(self) -> None:
        found = []
        for entry in os.scandir(self._folder):
            with suppress(FileNotFoundError):  # removed by another thread
                told = entry.stat()
                found.append((told.st_mtime, told.st_size, entry.path))
        left_bytes, left = self._bytes_max, self._tables_max
        for _, size, path in sorted(found, reverse=True):
            left_bytes, left = left_bytes - size, left - 1
            if left_bytes < 0 or left < 0:
                Path(path).unlink(missing_ok=True)
