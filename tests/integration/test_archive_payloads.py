"""Payloads on their way into the archive: before the records that name them, whatever this node is short of."""

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from blake3 import blake3

from events.append import Appended, append
from events.cursor import Cursor
from events.log import Log
from events.objects.memory import MemoryStore
from events.record import Record
from schemas.archive import payload_key
from schemas.ids import PartitionId
from schemas.vector import UploadAccepted
from tests.archives import PREFIX, archived_up_to, archiving
from tests.conftest import StartNats
from tests.notes import new_partition, opened_log, record_after

FACTS = {"vector": {UploadAccepted.TYPE: UploadAccepted}}


@pytest_asyncio.fixture
async def event_log(start_nats: StartNats) -> AsyncIterator[Log]:
    """A server without the records of other tests."""
    async with opened_log(await start_nats()) as opened:
        yield opened


async def uploaded(event_log: Log, *cids: str) -> Record:
    """Append a record that names payloads."""
    partition = PartitionId("vector", new_partition().key)
    facts = [
        UploadAccepted(job_id=n, kind="text", file_hash=cid, payload=cid, size_bytes=4)
        for n, cid in enumerate(cids, start=1)
    ]
    record = record_after(Cursor.start(partition), partition, facts)
    assert isinstance(await append(event_log.writer, record, 0), Appended)
    return record


async def test_payloads_are_archived_before_the_records_that_name_them(event_log: Log, tmp_path: Path) -> None:
    """PR4: and one that this node has lost does not keep the log from the archive."""
    order = []

    class Ordered(MemoryStore):
        async def create(self, key: str, data: bytes) -> str:
            if not key.endswith("mark.json"):  # it says beforehand that something will change
                order.append(key)
            return await super().create(key, data)

    store = Ordered()
    kept, lost, damaged = (blake3(data).hexdigest() for data in (b"kept", b"lost", b"damaged"))
    (tmp_path / kept).write_bytes(b"kept")
    (tmp_path / damaged).write_bytes(b"damagee")
    record = await uploaded(event_log, kept, lost, damaged)

    async with archiving(event_log, store, facts=FACTS, payload_path=lambda cid: tmp_path / cid):
        await archived_up_to(store, record.partition, record.position)

    assert [key.rpartition(".")[2] for key in order[:3]] == [f"p/{payload_key(kept)}", "seg", "json"]
    assert store.objects[f"{PREFIX}/{payload_key(kept)}"].data == b"kept"
    assert await store.size(f"{PREFIX}/{payload_key(damaged)}") is None


async def test_a_payload_is_not_lost_when_there_are_too_many_open_files(event_log: Log, tmp_path: Path) -> None:
    """PR4: it is there, and stored as soon as it can be opened; the record that names it waits for that."""

    class Crowded(MemoryStore):
        left = 2

        async def create_file(self, key: str, path: Path, digest: str) -> None:
            if self.left:
                self.left -= 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
            await super().create_file(key, path, digest)

    store, cid = Crowded(), blake3(b"kept").hexdigest()
    (tmp_path / cid).write_bytes(b"kept")
    record = await uploaded(event_log, cid)

    async with archiving(event_log, store, facts=FACTS, payload_path=lambda cid: tmp_path / cid):
        await archived_up_to(store, record.partition, record.position)

    assert store.objects[f"{PREFIX}/{payload_key(cid)}"].data == b"kept"
