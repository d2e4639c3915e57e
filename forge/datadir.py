"""The data directory: one node at a time, its root token, and where the running node can be found.

DataDirError
├── DataDirBusy        another node has the directory open
└── DataDirUnusable    the directory or a file in it cannot be used as it is
"""

import asyncio
import fcntl
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from forge.private_file import create_private, write_private
from forge.process_id import ProcessId

LOCK_WAIT_S = 20.0
LOCK_POLL_S = 0.05
_TOKEN_BYTES = 32
_TOKEN_PREFIX = "forge_"
_RUNTIME = "runtime.json"
_log = structlog.get_logger(__name__)


class DataDirError(Exception):
    """Base of everything in this module."""


class DataDirBusy(DataDirError):
    """Another node has the directory open; `pid` is that node's, None if only processes it left behind do."""

    def __init__(self, path: Path, pid: int | None) -> None:
        holder = f"by process {pid}" if pid else "by processes that an earlier node left behind"
        super().__init__(f"{path} is in use {holder}; stop it, or choose another data directory")
        self.path = path
        self.pid = pid


class DataDirUnusable(DataDirError):
    """The directory or a file in it cannot be used as it is; the message says how to mend it."""


class Runtime(BaseModel):
    """Where a running node is found; the other addresses are of its NATS server.

    `monitor_url` and `read_url` are to look at the log, `client_url` to send commands; empty if it is not ours.
    `s3_url` is that of the object store that it has started.
    """

    model_config = ConfigDict(frozen=True)

    url: str
    node_id: str
    process: ProcessId
    monitor_url: str = ""
    read_url: str = ""
    client_url: str = ""
    s3_url: str = ""

    @property
    def pid(self) -> int:
        """Process id of the node."""
        return self.process.pid


class DataDir:
    """An open data directory, this process's alone until `close`.

    `lock_fd` is for children to inherit: the lock then lasts until the last of them has ended, so the next
    node cannot start a server on files that a dying one still writes.
    """

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self.lock_fd = lock_fd

    @classmethod
    def open(cls, path: Path, *, wait_s: float = LOCK_WAIT_S) -> Self:
        """Open `path`, made with mode 0700 if missing.

        `DataDirBusy` at once if a node runs there, or after `wait_s` if children of a dead one still do.
        Blocks meanwhile: call it before the event loop, or in a thread.
        """
        path = path.absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_fd = os.open(path / "forge.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataDirUnusable(f"cannot use {path} as data directory: {error.strerror}") from error
        try:
            _lock(path, lock_fd, wait_s)
            os.ftruncate(lock_fd, 0)
            os.pwrite(lock_fd, ProcessId.current().model_dump_json().encode(), 0)
        except BaseException:
            os.close(lock_fd)
            raise
        if path.stat().st_mode & 0o022:
            _log.warning("other users may write to the data directory", path=str(path), fix="chmod 700")
        return cls(path, lock_fd)

    def close(self) -> None:
        """Withdraw `runtime.json` and let go of the lock, which children that inherited it may keep."""
        if self.lock_fd >= 0:
            self.withdraw()
            os.close(self.lock_fd)  # not LOCK_UN: that would take the lock from the children too
            self.lock_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(
        self,
        url: str,
        node_id: str,
        monitor_url: str = "",
        read_url: str = "",
        client_url: str = "",
        s3_url: str = "",
    ) -> None:
        """Write `runtime.json` (0600), so that the command line finds the node that listens at `url`."""
        runtime = Runtime(
            url=url,
            node_id=node_id,
            process=ProcessId.current(),
            monitor_url=monitor_url,
            read_url=read_url,
            client_url=client_url,
            s3_url=s3_url,
        )
        write_private(self.path / _RUNTIME, runtime.model_dump_json())

    def withdraw(self) -> None:
        """Remove `runtime.json`."""
        (self.path / _RUNTIME).unlink(missing_ok=True)


def read_runtime(path: Path) -> Runtime | None:
    """Return where the node of data directory `path` listens, None if none runs."""
    try:
        runtime = Runtime.model_validate_json((path / _RUNTIME).read_bytes())
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValidationError):
        return None
    return runtime if runtime.process.alive() else None


def root_token(path: Path) -> str:
    """Return the root token of data directory `path`, made at the first call (256 random bits, mode 0600)."""
    file = path / "root.token"
    if not file.exists():
        create_private(file, f"{_TOKEN_PREFIX}{secrets.token_urlsafe(_TOKEN_BYTES)}\n")
    return read_root_token(path)


def read_root_token(path: Path) -> str:
    """Return the root token of data directory `path`; `DataDirUnusable` if there is none that can be used.

    A file that others may read is narrowed to 0600 with a warning.
    """
    file = path / "root.token"
    try:
        mode = file.stat().st_mode & 0o777
        if mode & 0o077:
            _log.warning("root token was open to other users", path=str(file), mode=f"{mode:04o}")
            file.chmod(0o600)
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataDirUnusable(f"cannot read {file}: {error}") from error
    if not token.startswith(_TOKEN_PREFIX):
        raise DataDirUnusable(f"{file} holds no token; remove it, and the next start makes a new one")
    return token


def _lock(path: Path, lock_fd: int, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(lock_fd)
        if holder is not None and holder.alive():
            raise DataDirBusy(path, holder.pid)
        if time.monotonic() > deadline:
            raise DataDirBusy(path, None)
        time.sleep(LOCK_POLL_S)


def _holder(lock_fd: int) -> ProcessId | None:
    """Return who wrote the lock file last, None while it is being written."""
    try:
        return ProcessId.model_validate_json(os.pread(lock_fd, 1000, 0))
    except ValidationError:
        return None


@asynccontextmanager
async def data_directory(path: Path) -> AsyncIterator[DataDir]:
    """Hold the data directory; raise `DataDirBusy` with the pid of whoever has it."""
    data = await asyncio.to_thread(DataDir.open, path)
    try:
        yield data
    finally:
        data.close()
