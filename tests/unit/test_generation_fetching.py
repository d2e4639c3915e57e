"""Fetching a generation that ends early: whoever called gets a file number back that nobody writes to any more."""

import asyncio
import os
import random
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from events.objects.errors import ObjectMissing
from events.objects.memory import MemoryStore
from events.objects.port import Object
from projectors.generations.errors import GenerationMissing
from projectors.generations.fetching import fetch
from schemas.generation import Manifest
from tests.faults.killer import fresh_seed
from tests.generations import Written, making, written
from tests.waiting import until

HELD_S = 0.5  # so long a write takes that is under way


class Failing(MemoryStore):
    """A store that lacks one chunk, which it says when `fail` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.lacks = ""
        self.fail = asyncio.Event()

    async def get(self, key: str) -> Object:
        """Return an object, unless it is the one."""
        if self.lacks and key.endswith(self.lacks):
            await self.fail.wait()
            raise ObjectMissing(key)
        return await super().get(key)


class SlowDisk:
    """Notes whether a file is closed while a write to it is under way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writing: set[int] = set()
        self.closed_early = False
        self.go = threading.Event()
        self._pwrite, self._close = os.pwrite, os.close
        monkeypatch.setattr(os, "pwrite", self._slowly)
        monkeypatch.setattr(os, "close", self._closed)

    def _slowly(self, descriptor: int, data: bytes, at: int) -> int:
        self.writing.add(descriptor)
        self.go.wait()
        try:
            return self._pwrite(descriptor, data, at)
        finally:
            self.writing.discard(descriptor)

    def _closed(self, descriptor: int) -> None:
        self.closed_early = self.closed_early or descriptor in self.writing
        self._close(descriptor)


@pytest_asyncio.fixture
async def notes(tmp_path: Path) -> AsyncIterator[Written]:
    async with written(tmp_path / "node", Failing()) as opened:
        yield opened


async def large(notes: Written, folder: Path) -> Manifest:
    """Return a generation of several chunks."""
    rng = random.Random(fresh_seed())
    await notes.write(*(rng.randbytes(4000).hex() for _ in range(60)))
    async with making(notes.archive, folder / "scratch") as maker:
        found = (await maker.make(notes.partition, notes.spec)).generation
    assert found is not None
    assert len(found.chunks) > 2
    return found


def chunk_missing(store: Failing, _: "asyncio.Task[None]") -> None:
    store.fail.set()


def cancelled(_: Failing, fetching: "asyncio.Task[None]") -> None:
    fetching.cancel()


@pytest.mark.parametrize(
    ("ends", "error"),
    [(chunk_missing, GenerationMissing), (cancelled, asyncio.CancelledError)],
    ids=["chunk missing", "cancelled"],
)
async def test_no_file_is_closed_while_a_thread_writes_to_it(
    notes: Written,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: Callable[[Failing, "asyncio.Task[None]"], None],
    error: type[BaseException],
) -> None:
    """PR2: the number of a closed file is given to the next one, a database perhaps."""
    found = await large(notes, tmp_path)
    store = notes.store
    assert isinstance(store, Failing)
    store.lacks, disk, path = found.chunks[-1], SlowDisk(monkeypatch), tmp_path / "fetched.db"
    fetching = asyncio.create_task(fetch(notes.archive, found, path))
    await until(lambda: bool(disk.writing))
    ends(store, fetching)
    asyncio.get_running_loop().call_later(HELD_S, disk.go.set)
    with pytest.raises(error):
        await fetching
    assert not disk.closed_early
    assert not path.exists()
