"""An object store in memory, for tests and trials."""

import asyncio
import heapq
from collections.abc import Sequence
from pathlib import Path

from events.objects.errors import CorruptObject, ObjectMissing, PreconditionFailed
from events.objects.port import LIST_MAX, Folders, Listed, Object, check_key, checksum


class MemoryStore:
    """Objects in a dictionary. The tag of an object is its checksum."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}

    async def create(self, key: str, data: bytes) -> str:
        """Store a new object."""
        if check_key(key) in self.objects:
            raise PreconditionFailed(f"{key} exists")
        return self._put(key, data)

    async def create_file(self, key: str, path: Path, digest: str) -> None:
        """Store a file as a new object."""
        data = await asyncio.to_thread(path.read_bytes)
        if checksum(data) != digest:
            raise CorruptObject(f"{path} does not hold {digest}")
        await self.create(key, data)

    async def swap(self, key: str, data: bytes, tag: str) -> str:
        """Replace one version of an object."""
        found = self.objects.get(check_key(key))
        if found is None or found.tag != tag:
            raise PreconditionFailed(f"{key} is not of version {tag}")
        return self._put(key, data)

    async def put(self, key: str, data: bytes) -> str:
        """Store an object whatever is there."""
        return self._put(check_key(key), data)

    def _put(self, key: str, data: bytes) -> str:
        tag = checksum(data)
        self.objects[key] = Object(bytes(data), tag)
        return tag

    async def get(self, key: str) -> Object:
        """Return an object."""
        try:
            found = self.objects[check_key(key)]
        except KeyError:
            raise ObjectMissing(key) from None
        if checksum(found.data) != found.tag:
            raise CorruptObject(f"{key} was altered")
        return found

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return some of an object's bytes."""
        try:
            return self.objects[check_key(key)].data[start : start + length]
        except KeyError:
            raise ObjectMissing(key) from None

    async def size(self, key: str) -> int | None:
        """Return the size of an object."""
        found = self.objects.get(check_key(key))
        return None if found is None else len(found.data)

    async def list(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Sequence[Listed]:
        """Return one page of keys."""
        matching = (key for key in self.objects if key.startswith(prefix) and key > after)
        return [Listed(key, len(self.objects[key].data)) for key in heapq.nsmallest(min(limit, LIST_MAX), matching)]

    async def folders(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Folders:
        """Return one page of folders."""
        below = (key.removeprefix(prefix).partition("/") for key in self.objects if key.startswith(prefix))
        found = {name for name, slash, _ in below if slash and name > after}
        page = heapq.nsmallest(min(limit, LIST_MAX), found)
        return Folders(page, page[-1] if len(found) > len(page) else "")

    async def delete(self, key: str) -> None:
        """Remove an object."""
        self.objects.pop(check_key(key), None)

    async def close(self) -> None:
        """Nothing to let go of."""
