"""An object store that encrypts what it stores and decrypts what it reads, by age and by the key of each object."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from events.objects import age
from events.objects.age import Recipient
from events.objects.age_file import seal_file
from events.objects.errors import ObjectMissing, StoreUnavailable
from events.objects.keyring import Keyring
from events.objects.port import LIST_MAX, Folders, Listed, Object, ObjectStore, check_key, checksum
from events.staging import StagedFile

HEAD_BYTES = 4 << 10  # holds the header of an age file, unless it is for many or for long RSA keys


class SealedStore:
    """`store` through a `keyring`: nothing is read or stored before its key is known to be the right one.

    Encrypted objects are age files, whose checksums are those of the file. `size` tells what is in them; `list` what
    they take. `temp` is a folder for files on their way, which nobody can read there either.
    """

    def __init__(self, store: ObjectStore, keyring: Keyring, temp: Path) -> None:
        self._store = store
        self._keyring = keyring
        self._temp = temp

    async def create(self, key: str, data: bytes) -> str:
        """Store a new object."""
        return await self._store.create(key, await self._sealed(key, data))

    async def swap(self, key: str, data: bytes, tag: str) -> str:
        """Replace one version of an object."""
        return await self._store.swap(key, await self._sealed(key, data), tag)

    async def put(self, key: str, data: bytes) -> str:
        """Store an object whatever is there."""
        return await self._store.put(key, await self._sealed(key, data))

    async def create_file(self, key: str, path: Path, digest: str) -> None:
        """Store a file as a new object."""
        recipients = await self._recipients(key)
        if not recipients:
            return await self._store.create_file(key, path, digest)
        staged = StagedFile(self._temp)
        with await asyncio.to_thread(open, path, "rb") as source:
            try:
                await asyncio.to_thread(seal_file, source, staged, recipients, digest)
                await self._create_staged(key, staged)
            finally:
                await asyncio.to_thread(staged.discard)

    async def _create_staged(self, key: str, staged: StagedFile) -> None:
        assert staged.path is not None  # an age file is never empty
        try:
            await self._store.create_file(key, staged.path, staged.cid)
        except OSError as error:  # the caller's own file was read
            raise StoreUnavailable(f"an encrypted file cannot be read again: {error}") from error

    async def get(self, key: str) -> Object:
        """Return an object."""
        await self._keyring.admit()
        found = await self._store.get(key)
        if not is_sealed(key, found.data):
            return found
        return Object(await asyncio.to_thread(self._keyring.open, key, found.data), found.tag)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return some of an object's bytes; of an encrypted one all are read."""
        await self._keyring.admit()
        if length <= 0 or not age.is_sealed(await self._store.get_range(key, 0, len(age.MAGIC))):
            return await self._store.get_range(key, start, length)
        return (await self.get(key)).data[start : start + length]

    async def size(self, key: str) -> int | None:
        """Return the size of what an object holds."""
        await self._keyring.admit()
        stored = await self._store.size(key)
        if stored is None:
            return None
        try:
            for head_bytes in (HEAD_BYTES, age.HEADER_BYTES_MAX):
                head = await self._store.get_range(key, 0, head_bytes)
                if not age.is_sealed(head):
                    return stored
                if (inner := age.inner_size(stored, head)) is not None:
                    return inner
        except ObjectMissing:
            return None  # removed meanwhile
        return stored  # something of somebody's that begins as an age file does, and is none

    async def list(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Sequence[Listed]:
        """Return one page of keys, with the sizes that objects have in the store."""
        await self._keyring.admit()
        return await self._store.list(prefix, after=after, limit=limit)

    async def folders(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Folders:
        """Return one page of folders."""
        await self._keyring.admit()
        return await self._store.folders(prefix, after=after, limit=limit)

    async def delete(self, key: str) -> None:
        """Remove an object."""
        await self._keyring.admit()
        await self._store.delete(key)

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def _recipients(self, key: str) -> Sequence[Recipient]:
        """Return for whom the object of `key` is to be encrypted, nobody: not at all; raise `KeyRefused`."""
        if self._keyring.encrypts(check_key(key)):
            return await self._keyring.enroll()
        await self._keyring.admit()
        return ()

    async def _sealed(self, key: str, data: bytes) -> bytes:
        recipients = await self._recipients(key)
        return await asyncio.to_thread(age.encrypt, data, recipients) if recipients else data


def is_sealed(key: str, data: bytes) -> bool:
    """Say whether an object is an age file of ours, and not somebody's that is kept under the hash of its bytes."""
    return age.is_sealed(data) and checksum(data) != key.rpartition("/")[2]
