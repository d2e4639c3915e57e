"""Copy a projection at one exact position beside its writer, and examine a copy."""

from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Literal, NamedTuple

import apsw

from events.cursor import Cursor
from projectors.digest import digest
from projectors.projection import connect, read_cursor

STEP_PAGES = 2048
INTERRUPTIBLE_OPS = 100_000


Check = Literal["quick_check", "integrity_check"] | None


class Examined(NamedTuple):
    """What a sound file says of itself; `digest` is None if nobody asked for it."""

    partition: str
    cursor: Cursor
    time: str
    version: str
    page_size: int
    digest: str | None


def copy_projection(source: Path, target: Path, stopping: Event) -> None:
    """Copy one state of the file that its writer goes on changing meanwhile; `apsw.InterruptError` if told to."""
    with closing(connect(source, readonly=True)) as live, closing(connect(target)) as copy:
        for _ in copy.execute("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF"):
            pass
        live.execute("BEGIN")
        read_cursor(live)  # from here on the copy sees this state, whatever is written
        with copy.backup("main", live, "main") as backup:
            while not backup.done:
                if stopping.is_set():
                    raise apsw.InterruptError("stopping")
                backup.step(STEP_PAGES)
        live.execute("COMMIT")
    with closing(connect(target)) as copy:
        for _ in copy.execute("PRAGMA journal_mode=DELETE"):  # one plain file, which needs no other beside it
            pass


def examine(path: Path, stopping: Event, *, digests: bool = True, check: Check = "quick_check") -> Examined:
    """Check a file and say what it holds; `integrity_check` compares indexes with their tables too.

    Raise `apsw.CorruptError` if it is damaged, `apsw.InterruptError` if told to.
    """
    with closing(connect(path, readonly=True)) as db:
        db.set_progress_handler(stopping.is_set, INTERRUPTIBLE_OPS)
        # Checks and functions are the user's: they say nothing about damage.
        for pragma in ("ignore_check_constraints=ON", "trusted_schema=OFF", "cell_size_check=ON"):
            db.execute(f"PRAGMA {pragma}")
        if check is not None and (found := db.execute(f"PRAGMA {check}(1)").get) != "ok":
            raise apsw.CorruptError(f"its file is damaged: {found}")
        partition, time, version = db.execute("SELECT partition, time, version FROM _forge_position").get
        return Examined(
            partition,
            read_cursor(db),
            time,
            version,
            int(str(db.pragma("page_size"))),
            digest(db) if digests else None,
        )
