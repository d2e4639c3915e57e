"""An object store in a folder of a local disk: one file for each object, durable before it is answered.

A file holds the object and behind it the BLAKE3-256 of it (32 bytes). No key may be the beginning of another up to a
slash.
"""

import asyncio
import fcntl
import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from blake3 import blake3
from ulid import ULID

from events.objects.errors import CorruptObject, ObjectMissing, PreconditionFailed, StoreUnavailable
from events.objects.port import LIST_MAX, Folders, Listed, Object, check_key

COPY_BYTES = 1 << 20
DIGEST_BYTES = 32
OWN = ".forge-store"  # holds the lock, and files until they are whole

Result = TypeVar("Result")


class FolderStore:
    """Objects below `root`. Several processes may use it at the same time; the tag of an object is its checksum."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._own = root / OWN

    async def create(self, key: str, data: bytes) -> str:
        """Store a new object."""
        return await _in_thread(self._create, key, lambda file: _write(file, data))

    async def create_file(self, key: str, path: Path, digest: str) -> None:
        """Store a file as a new object."""
        with await asyncio.to_thread(open, path, "rb") as source:
            await _in_thread(self._create, key, lambda file: _copy(source, file, digest))

    async def swap(self, key: str, data: bytes, tag: str) -> str:
        """Replace one version of an object."""
        return await _in_thread(self._swap, key, data, tag)

    async def put(self, key: str, data: bytes) -> str:
        """Store an object whatever is there."""
        return await _in_thread(self._put, key, data)

    async def get(self, key: str) -> Object:
        """Return an object."""
        return await _in_thread(self._get, key)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return some of an object's bytes."""
        return await _in_thread(self._get_range, key, start, length)

    async def size(self, key: str) -> int | None:
        """Return the size of an object."""
        try:
            return await _in_thread(lambda: self._path(key).stat().st_size - DIGEST_BYTES)
        except ObjectMissing:
            return None

    async def list(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Sequence[Listed]:
        """Return one page of keys."""
        return await _in_thread(self._page, prefix, after, min(limit, LIST_MAX))

    async def folders(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Folders:
        """Return one page of folders."""
        return await _in_thread(self._folders, prefix, after, min(limit, LIST_MAX))

    async def delete(self, key: str) -> None:
        """Remove an object."""
        with suppress(ObjectMissing):
            await _in_thread(self._delete, key)

    async def close(self) -> None:
        """Nothing is kept open."""

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _create(self, key: str, fill: Callable[[BinaryIO], str]) -> str:
        final = self._path(key)
        with self._temporary(fill) as (temporary, tag):
            self._make_folders(final.parent)
            try:
                os.link(temporary, final)
            except FileExistsError:
                raise PreconditionFailed(f"{key} exists") from None
            _sync_folder(final.parent)
        return tag

    def _swap(self, key: str, data: bytes, tag: str) -> str:
        with self._locked():
            try:
                found = self._get(key).tag
            except FileNotFoundError:
                found = "missing"
            if found != tag:
                raise PreconditionFailed(f"{key} is not of version {tag}")
            return self._replace(key, data)

    def _put(self, key: str, data: bytes) -> str:
        with self._locked():
            return self._replace(key, data)

    def _replace(self, key: str, data: bytes) -> str:
        final = self._path(key)
        with self._temporary(lambda file: _write(file, data)) as (temporary, tag):
            self._make_folders(final.parent)
            os.replace(temporary, final)
            _sync_folder(final.parent)
        return tag

    def _get(self, key: str) -> Object:
        raw = self._path(key).read_bytes()
        data, digest = raw[:-DIGEST_BYTES], raw[-DIGEST_BYTES:]
        if blake3(data).digest() != digest:
            raise CorruptObject(f"{key} is not what was stored: its checksum does not match")
        return Object(data, digest.hex())

    def _get_range(self, key: str, start: int, length: int) -> bytes:
        with open(self._path(key), "rb") as file:
            end = os.fstat(file.fileno()).st_size - DIGEST_BYTES
            file.seek(start)
            return file.read(max(0, min(length, end - start)))

    def _page(self, prefix: str, after: str, limit: int) -> Sequence[Listed]:
        matching = (key for key in self._keys(prefix) if key.startswith(prefix) and key > after)
        page = []
        for key in heapq.nsmallest(limit, matching):
            with suppress(FileNotFoundError):  # removed meanwhile
                page.append(Listed(key, self._path(key).stat().st_size - DIGEST_BYTES))
        return page

    def _folders(self, prefix: str, after: str, limit: int) -> Folders:
        try:
            with os.scandir(self._root / prefix) as entries:
                names = {entry.name for entry in entries if entry.name > after and entry.is_dir()} - {OWN}
        except FileNotFoundError:
            return Folders([], "")
        page = heapq.nsmallest(limit, names)
        return Folders(page, page[-1] if len(names) > limit else "")

    def _keys(self, prefix: str) -> Iterator[str]:
        for folder, folders, files in os.walk(self._root / prefix.rpartition("/")[0]):
            if OWN in folders:
                folders.remove(OWN)
            for name in files:
                yield str(Path(folder, name).relative_to(self._root))

    def _delete(self, key: str) -> None:
        path = self._path(key)
        path.unlink()
        _sync_folder(path.parent)

    @contextmanager
    def _temporary(self, fill: Callable[[BinaryIO], str]) -> Iterator[tuple[Path, str]]:
        """Give a synced file that `fill` has written, with the tag of what it holds; it is gone afterwards."""
        self._make_folders(self._own)
        temporary = self._own / f"{ULID()}.part"
        try:
            with open(temporary, "xb") as file:
                tag = fill(file)
                file.flush()
                os.fsync(file.fileno())
            yield temporary, tag
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from replacing anything meanwhile."""
        self._make_folders(self._own)
        with open(self._own / "lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_folders(self, folder: Path) -> None:
        if folder.is_dir():
            return
        missing = [folder, *(parent for parent in folder.parents if not parent.exists())]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for made in missing:
            _sync_folder(made.parent)


async def _in_thread(work: Callable[..., Result], *arguments: object) -> Result:
    try:
        return await asyncio.to_thread(work, *arguments)
    except FileNotFoundError as error:
        raise ObjectMissing(str(error.filename)) from error
    except OSError as error:
        raise StoreUnavailable(f"the folder cannot be used: {error}") from error


def _write(file: BinaryIO, data: bytes) -> str:
    digest = blake3(data)
    file.write(data)
    file.write(digest.digest())
    return digest.hexdigest()


def _copy(source: BinaryIO, file: BinaryIO, digest: str) -> str:
    hasher = blake3()
    while data := source.read(COPY_BYTES):
        hasher.update(data)
        file.write(data)
    if hasher.hexdigest() != digest:
        raise CorruptObject(f"{source.name} does not hold {digest}")
    file.write(hasher.digest())
    return digest


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
