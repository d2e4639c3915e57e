"""An object store that changes nothing while this process is not the writer."""

from collections.abc import Sequence
from pathlib import Path

from events.errors import NotTheWriter
from events.objects.errors import Fenced
from events.objects.port import LIST_MAX, Folders, Listed, Object, ObjectStore
from events.write_guard import WriteGuard


class GuardedStore:
    """`store` behind `guard`: reads pass, changes raise `Fenced` while it is closed.

    Keep it inside of what tries again, so that each attempt asks.
    """

    def __init__(self, store: ObjectStore, guard: WriteGuard) -> None:
        self._store = store
        self._guard = guard

    async def create(self, key: str, data: bytes) -> str:
        """Store a new object."""
        self._check(key)
        return await self._store.create(key, data)

    async def create_file(self, key: str, path: Path, digest: str) -> None:
        """Store a file as a new object."""
        self._check(key)
        await self._store.create_file(key, path, digest)

    async def swap(self, key: str, data: bytes, tag: str) -> str:
        """Replace one version of an object."""
        self._check(key)
        return await self._store.swap(key, data, tag)

    async def put(self, key: str, data: bytes) -> str:
        """Store an object whatever is there."""
        self._check(key)
        return await self._store.put(key, data)

    async def get(self, key: str) -> Object:
        """Return an object."""
        return await self._store.get(key)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return some of an object's bytes."""
        return await self._store.get_range(key, start, length)

    async def size(self, key: str) -> int | None:
        """Return the size of an object."""
        return await self._store.size(key)

    async def list(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Sequence[Listed]:
        """Return one page of keys."""
        return await self._store.list(prefix, after=after, limit=limit)

    async def folders(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Folders:
        """Return one page of folders."""
        return await self._store.folders(prefix, after=after, limit=limit)

    async def delete(self, key: str) -> None:
        """Remove an object."""
        self._check(key)
        await self._store.delete(key)

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    def _check(self, key: str) -> None:
        try:
            self._guard.check()
        except NotTheWriter as error:
            raise Fenced(f"{key} is not changed: {error}") from error
