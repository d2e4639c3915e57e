"""What Forge asks of an object store. One contract test runs against every implementation."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from blake3 import blake3

LIST_MAX = 1000  # keys of one page
KEY_BYTES_MAX = 1024


class Object(NamedTuple):
    """An object's bytes, verified, and the tag of this version of it."""

    data: bytes
    tag: str


class Listed(NamedTuple):
    """One key of a listing, and what its object takes in the store: more than it holds, if it is encrypted."""

    key: str
    size_bytes: int


class Folders(NamedTuple):
    """One page of folder names, without slashes; `next` asks for the one after it, empty if this is the last."""

    names: Sequence[str]
    next: str


class ObjectStore(Protocol):
    """Objects by key. Every call may raise `StoreUnavailable`; keys are paths of `check_key`.

    Bytes are hashed before they are sent and when they come back: `CorruptObject` if they differ.
    """

    async def create(self, key: str, data: bytes) -> str:
        """Store a new object and return its tag; raise `PreconditionFailed` if the key is taken."""

    async def create_file(self, key: str, path: Path, digest: str) -> None:
        """Store a file of any size as a new object, in parts; raise `PreconditionFailed` if the key is taken.

        Raise `CorruptObject` unless the BLAKE3 of the file is `digest`; raise `OSError` if it cannot be read.
        """

    async def swap(self, key: str, data: bytes, tag: str) -> str:
        """Replace the version `tag` of an object, return the new tag; raise `PreconditionFailed` if it is another."""

    async def put(self, key: str, data: bytes) -> str:
        """Store an object whatever is there, and return its tag; for what no other writer can harm, and for trials."""

    async def get(self, key: str) -> Object:
        """Return a whole object; raise `ObjectMissing`."""

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return up to `length` bytes from `start`, which only the caller can verify; raise `ObjectMissing`."""

    async def size(self, key: str) -> int | None:
        """Return the size of an object in bytes, None if there is none."""

    async def list(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Sequence[Listed]:
        """Return up to `limit` objects whose keys begin with `prefix` and come after `after`.

        Fewer than `limit` are the last ones; `limit` is at most `LIST_MAX`. Objects between the same slashes are in the
        order of their bytes; across slashes servers disagree.
        """

    async def folders(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Folders:
        """Return what comes next in keys that begin with `prefix` (it ends with a slash) and have a slash after it.

        `after` is empty or the `next` of an earlier page; `limit` is at most `LIST_MAX`. Each name comes once, in an
        order of the store's own; one of which all objects were deleted may still come. It costs by folders, not by
        objects.
        """

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    async def close(self) -> None:
        """Let go of connections and threads."""


def check_key(key: str) -> str:
    """Return `key` if every store can hold it: plain segments between slashes; raise `ValueError`."""
    segments = key.split("/")
    if not key.isascii() or not key.isprintable() or any(part in ("", ".", "..") for part in segments):
        raise ValueError(f"not a key of an object: {key[:80]!r}")
    if len(key) > KEY_BYTES_MAX:
        raise ValueError(f"a key of {len(key)} characters is longer than {KEY_BYTES_MAX}")
    return key


def checksum(data: bytes | memoryview) -> str:
    """Return what is kept beside the bytes to recognise them."""
    return blake3(data).hexdigest()
