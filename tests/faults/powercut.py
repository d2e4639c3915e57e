"""A disk whose power can be cut: an ext4 image on a loop device, shut down without flushing its journal."""

import fcntl
import functools
import os
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults import mounts

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2  # what was not fsynced is gone, as after pulling the plug
SIZE_MB = 64
SIZE_MB_MIN = 8


class PowerCutDisk:
    """An ext4 file system of `size_mb` MiB, mounted at `path` while the context is open.

    The method rule: count only answers that were received before `cut()` was called. While the ioctl runs
    the kernel itself has reported success for fsyncs whose data was then lost. A single-threaded test that
    calls `cut()` from its event loop obeys the rule by itself; others compare times with what it returns.
    """

    def __init__(self, size_mb: int = SIZE_MB) -> None:
        if size_mb < SIZE_MB_MIN:
            raise ValueError(f"a journalled ext4 needs at least {SIZE_MB_MIN} MiB, not {size_mb}")
        self._size_mb = size_mb
        self._directory: Path | None = None
        self.cuts = 0

    @property
    def path(self) -> Path:
        """The directory where the disk is mounted."""
        return self._home() / "disk"

    def __enter__(self) -> Self:
        self._directory = mounts.make_directory()
        try:
            with self._image().open("wb") as image:
                image.truncate(self._size_mb << 20)
            mounts.run("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image()))
            self.path.mkdir()
            self._mount()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._directory is not None:
            mounts.remove_directory(self._directory)
            self._directory = None

    def cut(self) -> float:
        """Cut the power; return the `time.monotonic()` of the last moment before it.

        From then on every access fails with EIO. Processes live on until `remount()` kills them.
        """
        handle = os.open(self.path, os.O_RDONLY)
        try:
            last_moment = time.monotonic()
            fcntl.ioctl(handle, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(handle)
        self.cuts += 1
        return last_moment

    def remount(self) -> list[int]:
        """Kill every process that uses the disk, mount it again (journal replay); return their pids."""
        killed = mounts.kill_users(self.path)
        mounts.unmount(self.path)
        self._mount()
        return killed

    def _mount(self) -> None:
        mounts.run("mount", "-t", "ext4", "-o", "loop", str(self._image()), str(self.path))

    def _image(self) -> Path:
        return self._home() / "image"

    def _home(self) -> Path:
        if self._directory is None:
            raise RuntimeError("the disk exists only inside `with PowerCutDisk() as disk:`")
        return self._directory


@functools.cache
def unavailable() -> str | None:
    """Return why power cuts cannot be made on this machine, or None after one small cut has really worked."""
    if reason := mounts.missing("mkfs.ext4", "mount", "umount"):
        return reason
    try:
        with PowerCutDisk(SIZE_MB_MIN) as disk:
            (disk.path / "unsynced").write_bytes(b"x")
            disk.cut()
            disk.remount()
            survived = (disk.path / "unsynced").exists() and (disk.path / "unsynced").read_bytes() == b"x"
    except (OSError, mounts.MountFailed) as error:
        return f"a loop-mounted ext4 cannot be shut down here: {error}"
    return "the shutdown ioctl lost nothing here: unsynced data survived it" if survived else None
