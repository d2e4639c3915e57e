"""One follower for each file: a lock that ends with its process."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from forge.replica.errors import FileRefused


class FollowerLock:
    """Held from `take` to `release`, by `FILE-follower` beside the file."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, file: Path) -> Self:
        """Lock `file`; raise `FileRefused` if another process follows into it, or its folder cannot be written."""
        path = beside(file, "follower")
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                why = f"cannot write beside {file}: {error.strerror}"
                raise FileRefused("not-a-replica", why, "give a file in a folder that exists and is yours") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                os.close(descriptor)
                why = f"process {holder or '?'} keeps {file} following already"
                raise FileRefused(
                    "in-use", why, f"stop it first: kill {holder}" if holder else "stop it first"
                ) from None
            if _is(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return cls(path, descriptor)
            os.close(descriptor)  # whoever held it has just removed it

    def release(self) -> None:
        """Let go; the lock file disappears."""
        if self._descriptor >= 0:
            with suppress(FileNotFoundError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1


def beside(file: Path, what: str) -> Path:
    """Return the path of something that belongs to `file`, named as SQLite names its own."""
    return file.with_name(f"{file.name}-{what}")


def _is(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
