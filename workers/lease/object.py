"""The lease object in the store: read, and replaced if nobody else has replaced it since."""

import asyncio
from collections.abc import Awaitable
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from events.objects.errors import CorruptObject, ObjectMissing, PreconditionFailed, StoreUnavailable
from events.objects.port import ObjectStore
from schemas.writer_lease import LeaseRecord, Mode
from workers.lease.errors import LeaseUnreadable

Result = TypeVar("Result")


class Seen(NamedTuple):
    """One version of the lease object; `tag` is as the store gave it."""

    record: LeaseRecord
    tag: str


class LeaseObject:
    """The object at `key`. Every call ends after `timeout_s`, as `StoreUnavailable`: then nobody knows.

    In mode soft, `settle_s` passes between what is put and the look at whether it is still there.
    """

    def __init__(self, store: ObjectStore, key: str, mode: Mode, *, timeout_s: float, settle_s: float) -> None:
        self._store = store
        self._key = key
        self.mode = mode
        self._timeout_s = timeout_s
        self._settle_s = settle_s

    async def read(self) -> Seen | None:
        """Return what is there, None if nothing is; raise `LeaseUnreadable`.

        What is damaged may have been damaged on its way: that is `StoreUnavailable`.
        """
        try:
            found = await self._in_time(self._store.get(self._key))
            return Seen(LeaseRecord.parse(found.data), found.tag)
        except ObjectMissing:
            return None
        except CorruptObject as error:
            raise StoreUnavailable(self._no_lease(error)) from error
        except ValidationError as error:
            raise LeaseUnreadable(self._no_lease(error)) from error

    async def replace(self, record: LeaseRecord, before: Seen | None, *, settle: bool = False) -> Seen:
        """Store `record` in place of `before` (None: of nothing); raise `PreconditionFailed` if it is not there."""
        data = record.encode()
        if self.mode == "hard":
            storing = self._store.swap(self._key, data, before.tag) if before else self._store.create(self._key, data)
            return Seen(record, await self._in_time(storing))
        if await self.read() != before:
            raise PreconditionFailed(f"{self._key} was changed by somebody else")
        tag = await self._in_time(self._store.put(self._key, data))
        if settle:
            await asyncio.sleep(self._settle_s)
        after = await self.read()
        if after is None or after.record != record:
            raise PreconditionFailed(f"{self._key} was changed by somebody else")
        return Seen(record, tag)

    async def _in_time(self, call: Awaitable[Result]) -> Result:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call
        except TimeoutError as error:
            raise StoreUnavailable(f"no answer about {self._key} in {self._timeout_s:g} s") from error

    def _no_lease(self, error: Exception) -> str:
        return f"{self._key} holds no lease: {error}. If no other node writes below this prefix, remove the object"
