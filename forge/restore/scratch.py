"""Folders to restore into on trial: locked while somebody works there, removed when nobody does any more."""

import asyncio
import fcntl
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ulid import ULID

_NAME = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@asynccontextmanager
async def scratch_folder(below: Path) -> AsyncIterator[Path]:
    """Give a new folder below `below`, gone afterwards; those whose processes were killed are removed first."""
    path, lock = await asyncio.to_thread(_made, below)
    try:
        yield path
    finally:
        await asyncio.to_thread(_removed, path, lock)


def _made(below: Path) -> tuple[Path, int]:
    below.mkdir(parents=True, exist_ok=True)
    for left in below.iterdir():
        if _NAME.fullmatch(left.name) and (lock := _locked(left)) is not None:
            _removed(left, lock)
    while True:
        path = below / str(ULID())
        path.mkdir()
        if (lock := _locked(path)) is not None:  # else somebody came between, and removes it as left behind
            return path, lock


def _locked(path: Path) -> int | None:
    """Lock a folder until the descriptor is closed, also by a kill; None if another has it, or it is none of ours."""
    try:
        lock = os.open(path, _OPEN)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    if os.fstat(lock).st_nlink == 0:  # removed before it was locked
        os.close(lock)
        return None
    return lock


def _removed(path: Path, lock: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)
