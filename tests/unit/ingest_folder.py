"""A folder of files to ingest, and what of it is opened."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

LONG_AGO_NS = 1_700_000_000_123_456_789

_listening: list[list[bytes]] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _listening and isinstance(arguments[0], str | bytes):
        _listening[-1].append(os.fsencode(arguments[0]))


sys.addaudithook(_hear)


@contextmanager
def opened_below(folder: Path) -> Iterator[list[bytes]]:
    """Note the path of every file below `folder` that this process opens, complete at the end of the block."""
    heard: list[bytes] = []
    _listening.append(heard)
    try:
        yield heard
    finally:
        _listening.remove(heard)
        heard[:] = [path for path in heard if path.startswith(os.fsencode(folder) + b"/")]


def write(path: Path, content: bytes, mtime_ns: int = LONG_AGO_NS) -> Path:
    """Write a file that was last changed long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def picture(colour: int, file_format: str = "PNG") -> bytes:
    """Return a small image file."""
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (colour, 128, 255 - colour)).save(buffer, file_format)
    return buffer.getvalue()


def attributes(path: Path) -> dict[str, str]:
    """Return the extended attributes of a file."""
    return {name: os.getxattr(path, name).decode() for name in os.listxattr(path)}


def require_attributes(folder: Path) -> None:
    """Skip the test if the file system of `folder` keeps no user attributes."""
    probe = folder / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.probe", b"1")
    except OSError as error:
        pytest.skip(f"no user attributes in {folder}: {errno.errorcode[error.errno or 0]}; set --basetemp to a disk")
    finally:
        probe.unlink()
