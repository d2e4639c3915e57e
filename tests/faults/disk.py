"""A disk that is soon full, and can be made larger again: a small tmpfs."""

import errno
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults import mounts

FILL_TRIES = 100


class SmallDisk:
    """A mounted tmpfs at `path`; writes past its size fail with ENOSPC."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def free_bytes(self) -> int:
        """How many bytes can still be written."""
        state = os.statvfs(self.path)
        return state.f_bavail * state.f_frsize

    def grow(self, size_bytes: int) -> None:
        """Make the whole disk `size_bytes` large without touching what is on it."""
        mounts.run("mount", "-o", f"remount,size={size_bytes}", str(self.path))

    def fill(self, leave_bytes: int = 0) -> Path:
        """Write one file that leaves only about `leave_bytes` free; return it (delete it to heal)."""
        ballast = self.path / "ballast"
        with ballast.open("ab") as file:
            for tries_left in reversed(range(FILL_TRIES)):
                try:
                    os.posix_fallocate(file.fileno(), 0, max(1, self.free_bytes - leave_bytes))
                    break
                except OSError as error:  # somebody else wrote in between: less is free now
                    if error.errno != errno.ENOSPC or not tries_left:
                        raise
        return ballast


@contextmanager
def small_tmpfs(size_bytes: int) -> Iterator[SmallDisk]:
    """Mount a tmpfs of `size_bytes`; at the end kill its users and unmount it. Needs root."""
    directory = mounts.make_directory()
    try:
        path = directory / "disk"
        path.mkdir()
        mounts.run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path))
        yield SmallDisk(path)
    finally:
        mounts.remove_directory(directory)


@functools.cache
def unavailable() -> str | None:
    """Return why a small tmpfs cannot be mounted on this machine, or None after one really was."""
    if reason := mounts.missing("mount", "umount"):
        return reason
    try:
        with small_tmpfs(1 << 20):
            return None
    except (OSError, mounts.MountFailed) as error:
        return f"no tmpfs can be mounted here: {error}"
