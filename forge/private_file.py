"""Files that hold secrets: mode 0600 from the first byte, never half written, on disk when the call returns."""

import os
import tempfile
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Create or replace `path` with `text`."""
    new = _write_beside(path, text)
    os.replace(new, path)
    sync_folder(path.parent)


def create_private(path: Path, text: str) -> bool:
    """Create `path` with `text`; False, and nothing changed, if it exists."""
    new = _write_beside(path, text)
    try:
        os.link(new, path)
    except FileExistsError:
        return False
    finally:
        new.unlink()
    sync_folder(path.parent)
    return True


def _write_beside(path: Path, text: str) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp makes it 0600
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
