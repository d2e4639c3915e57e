"""Files that are being written: locked while their writer lives, swept when it is gone."""

import fcntl
import os
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from blake3 import blake3
from ulid import ULID

_NAME = re.compile(r"forge-[0-9A-HJKMNP-TV-Z]{26}\.part")
_OPEN = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
HASH_READ_BYTES = 1 << 20


class StagedFile:
    """A payload on its way: bytes in memory, or a locked temporary file, hashed as they arrive.

    Methods block and may be called from any thread; the lock keeps a late `discard` (its caller was
    cancelled) from running beside the write that is still under way.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path: Path | None = None
        self.size_bytes = 0
        self.synced = False
        self._hasher = blake3()
        self._data = b""
        self._fd = -1
        self._closed = False
        self._lock = threading.Lock()

    @property
    def cid(self) -> str:
        """Content hash of what was added so far."""
        return self._hasher.hexdigest()

    @property
    def unfinished(self) -> bool:
        """Whether there is a file to remove or to close."""
        return self.path is not None or self._fd >= 0

    def hold(self, data: bytes) -> None:
        """Take all bytes of a small payload without touching the disk; `write` puts them there later."""
        self._hasher.update(data)
        self.size_bytes, self._data = len(data), data

    def append(self, data: bytes) -> None:
        """Hash `data` and write it at the end of the temporary file, created by the first call."""
        with self._lock:
            if self._closed:
                return
            self._hasher.update(data)
            self.size_bytes += len(data)
            if self._fd < 0:
                self._create()
            _write_all(self._fd, data)

    def write(self, directory: Path) -> int:
        """Have the bytes in a file on the device of `directory`; return its descriptor, yet unsynced."""
        with self._lock:
            if self._fd < 0:
                self.directory = directory
                self._create()
                _write_all(self._fd, self._data)
            return self._fd

    def sync(self, fsync: Callable[[int], None]) -> None:
        """Flush a written file now, so that a shared round does not wait for its many bytes."""
        fsync(self._fd)
        self.synced = True

    def copy_to(self, directory: Path) -> None:
        """Replace the temporary file by a copy in `directory`, which is on another device."""
        with self._lock:
            old_fd, old_path = self._fd, self.path
            self.directory, self._fd, self.path = directory, -1, None
            try:
                self._create()
                os.lseek(old_fd, 0, os.SEEK_SET)
                with open(old_fd, "rb", closefd=False) as source, open(self._fd, "wb", closefd=False) as to:
                    shutil.copyfileobj(source, to, HASH_READ_BYTES)
            finally:
                if old_path is not None:
                    old_path.unlink(missing_ok=True)
                os.close(old_fd)

    def rename(self, final: Path) -> None:
        """Give the synced file its final name and let go of it."""
        with self._lock:
            assert self.path is not None
            os.rename(self.path, final)
            self.path = None
            self._close()

    def discard(self) -> None:
        """Remove what is still temporary and close; repeating it changes nothing."""
        with self._lock:
            self._closed, self._data = True, b""
            if self.path is not None:
                with suppress(FileNotFoundError):
                    os.unlink(self.path)
                self.path = None
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _create(self) -> None:
        while self._fd < 0:
            path = self.directory / f"forge-{ULID()}.part"
            fd = os.open(path, _OPEN, 0o600)
            # A sweep of another process may have come between the creation and the lock.
            if _locked(fd) and os.fstat(fd).st_nlink > 0:
                self._fd, self.path = fd, path
            else:
                os.close(fd)


def sweep(directory: Path) -> int:
    """Remove the temporary files whose writer is gone and return how many; foreign files stay."""
    swept = 0
    for entry in os.scandir(directory):
        if not _NAME.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
            continue
        try:
            fd = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if _locked(fd):
                os.unlink(entry.path)
                swept += 1
        except FileNotFoundError:
            pass
        finally:
            os.close(fd)
    return swept


def hash_file(fd: int) -> str:
    """Return the content hash of an open file, read from its beginning."""
    hasher = blake3()
    os.lseek(fd, 0, os.SEEK_SET)
    while data := os.read(fd, HASH_READ_BYTES):
        hasher.update(data)
    return hasher.hexdigest()


def _locked(fd: int) -> bool:
    """Lock the file for the life of `fd`; the kernel lets go even of a killed process's locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
