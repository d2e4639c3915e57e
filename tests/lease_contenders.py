"""Contenders for a writer lease in virtual time: their places, their clocks, and a store that fails them."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from events.objects.errors import PreconditionFailed, StoreUnavailable
from events.objects.memory import MemoryStore
from events.objects.port import Object
from schemas.writer_lease import Mode, SavedLease, lease_key
from workers.lease.holder import Identity, Terms
from workers.lease.object import LeaseObject
from workers.lease.stored import StoredLease

TERMS = Terms(duration_s=45, renew_s=15, margin_s=5)
BEGIN = datetime(2026, 11, 28, tzinfo=UTC)
KEY = f"p/{lease_key()}"

Result = TypeVar("Result")
Meddle = Callable[[Callable[[], Awaitable[Any]], bool], Awaitable[Any]]


class MemoryPlace:
    """A data directory that remembers its lease."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.name = f"{host}:/data"
        self.saved = SavedLease()

    async def load(self) -> SavedLease:
        """Return what was saved."""
        return self.saved

    async def save(self, saved: SavedLease) -> None:
        """Save it."""
        self.saved = saved


class Clocks:
    """The clocks of one machine: a steady one that is a little off, and one that somebody sets."""

    def __init__(self, rng: random.Random, *, drift: float = 0.0) -> None:
        self.jump_s = 0.0
        self._rate = 1 + rng.uniform(-drift, drift)
        self._begin_s = rng.uniform(0, 1e6)

    def steady(self) -> float:
        """Return the steady clock."""
        return self._begin_s + asyncio.get_running_loop().time() * self._rate

    def wall(self) -> datetime:
        """Return the clock that people set."""
        return BEGIN + timedelta(seconds=asyncio.get_running_loop().time() + self.jump_s)


class FaultyStore:
    """A store that is late, loses requests and answers, refuses wrongly, and does things after it was given up on."""

    def __init__(self, inner: MemoryStore, rng: random.Random) -> None:
        self.inner = inner
        self.rng = rng
        self.one_in = 0
        self.always = ""
        self.faults = 0
        self._late: set[asyncio.Task[object]] = set()

    async def create(self, key: str, data: bytes) -> str:
        """Store a new object."""
        return await self._call(lambda: self.inner.create(key, data), changes=True)

    async def swap(self, key: str, data: bytes, tag: str) -> str:
        """Replace one version of an object."""
        return await self._call(lambda: self.inner.swap(key, data, tag), changes=True)

    async def put(self, key: str, data: bytes) -> str:
        """Store an object whatever is there."""
        return await self._call(lambda: self.inner.put(key, data), changes=True)

    async def get(self, key: str) -> Object:
        """Return an object."""
        return await self._call(lambda: self.inner.get(key), changes=False)

    async def delete(self, key: str) -> None:
        """Remove an object."""
        await self._call(lambda: self.inner.delete(key), changes=True)

    async def _call(self, work: Callable[[], Awaitable[Result]], *, changes: bool) -> Result:
        await asyncio.sleep(self.rng.uniform(0.001, 0.2))
        harm = self._draw("lost", "refused", "answer lost", "hangs", "done late", "said to be refused", "slow")
        if harm in ("lost", "refused"):
            raise StoreUnavailable(harm)
        if harm == "hangs":
            await asyncio.sleep(3600)
        if harm == "done late" and changes:
            self._do_later(work)
            await asyncio.sleep(3600)
        if harm == "slow":
            await asyncio.sleep(self.rng.uniform(1, 20))
        result = await work()
        if harm == "said to be refused" and changes:
            raise PreconditionFailed("409 or 412")
        if harm == "answer lost":
            raise StoreUnavailable(harm)
        await asyncio.sleep(self.rng.uniform(0.001, 0.2) if harm != "slow" else self.rng.uniform(1, 20))
        return result

    def _draw(self, *harms: str) -> str:
        if self.always:
            return self.always
        if not self.one_in or self.rng.randrange(self.one_in):
            return ""
        self.faults += 1
        return self.rng.choice(harms)

    def _do_later(self, work: Callable[[], Awaitable[object]]) -> None:
        async def later() -> None:
            await asyncio.sleep(self.rng.uniform(0, 60))
            with suppress(PreconditionFailed):  # what it was to replace is not there any more
                await work()

        task = asyncio.get_running_loop().create_task(later())
        self._late.add(task)
        task.add_done_callback(self._late.discard)


class Meddled(FaultyStore):
    """A store with `meddle` before it, which is given what to do, and whether that changes anything."""

    def __init__(self, inner: MemoryStore, meddle: Meddle) -> None:
        super().__init__(inner, random.Random(1))
        self._meddle = meddle

    async def _call(self, work: Callable[[], Awaitable[Result]], *, changes: bool) -> Result:
        result: Result = await self._meddle(work, changes)
        return result


def contender(
    store: object,
    place: MemoryPlace,
    clocks: Clocks,
    *,
    mode: Mode = "hard",
    terms: Terms = TERMS,
    rng: random.Random | None = None,
) -> StoredLease:
    """Return the lease of a process that starts at `place`."""

    async def opened() -> LeaseObject:
        return LeaseObject(store, KEY, mode, timeout_s=5, settle_s=2)  # type: ignore[arg-type]  # what a lease needs

    identity = Identity(place, place.host, clocks.wall)
    return StoredLease(opened, identity, terms, clock=clocks.steady, rng=rng or random.Random(1))
