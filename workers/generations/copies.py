"""The copy of a projection on disk that a generation is made of, and what is known of the pages of the one before."""

import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from events.cursor import Cursor
from projectors.copying import Examined, copy_projection, examine
from projectors.projection import connect, read_cursor
from workers.generations.chunking import Cut, cut
from workers.generations.failures import NotNow
from workers.generations.page_table import PageTable

DIGEST_BYTES_MAX = 256 << 20
"""Files up to so large tell the digest of their content: it takes a walk over all rows, some seconds for such a one."""
SPACE_LEFT_BYTES = 256 << 20  # on the disk of the copies, whatever is made


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy, what it holds, and the table of the generation before, if that is known."""

    path: Path
    found: Examined
    cut: Cut
    table: PageTable | None


def standing(path: Path) -> tuple[int, Cursor]:
    """Return the size of a projection, and where it stands."""
    with closing(connect(path, readonly=True)) as db:
        return path.stat().st_size, read_cursor(db)


def check_space(scratch: Path, size_bytes: int) -> None:
    """Raise `NotNow` unless there is room for so much."""
    scratch.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(scratch).free) < size_bytes + SPACE_LEFT_BYTES:
        raise NotNow(f"{scratch} has {free} bytes left, and a copy takes {size_bytes}")


def copy(source: Path, path: Path, chunk_bytes: int | None, table: PageTable | None, stopping: Event) -> Copied:
    """Copy a projection to `path`; `chunk_bytes` and `table` are those of the generation before."""
    copy_projection(source, path, stopping)
    found = examine(path, stopping, digests=path.stat().st_size <= DIGEST_BYTES_MAX)
    return Copied(path, found, cut(path, found.page_size, chunk_bytes, table, stopping), table)
