"""The log file of a child: appended to by the child, kept small by its parent."""

import os
import shutil
from pathlib import Path

LOG_BYTES_MAX = 8 << 20
_TAIL_BYTES = 2000


def open_log(path: Path) -> int:
    """Return a descriptor that appends to `path` (mode 0600); the caller closes it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def bound_log(path: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Move what a log larger than `bytes_max` holds to `<path>.1`, so that both stay bounded.

    The child keeps its descriptor, hence copy and truncate: lines written in between are lost.
    """
    if path.exists() and path.stat().st_size > bytes_max:
        shutil.copy(path, path.with_name(f"{path.name}.1"))
        os.truncate(path, 0)


def log_tail(path: Path) -> str:
    """Return the last lines of `path`, empty if there are none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except FileNotFoundError:
        return ""
