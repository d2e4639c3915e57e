"""Payloads that a node has lost come back from the archive, and only if they are what their name says."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from blake3 import blake3

from events.archive import Archive
from events.objects.errors import CorruptObject, StoreUnavailable
from events.objects.memory import MemoryStore
from events.objects.port import Object
from events.payload_archive import PayloadArchive, store_payload
from events.payloads import PayloadStore
from schemas.archive import payload_key

CONTENT = b"the bytes of a file" * 9
CID = blake3(CONTENT).hexdigest()


@pytest_asyncio.fixture
async def payloads(tmp_path: Path) -> AsyncIterator[PayloadStore]:
    store = PayloadStore(tmp_path / "root", tmp_path / "temp")
    yield store
    await store.close()


async def test_a_lost_payload_is_fetched_verified_and_durable(payloads: PayloadStore) -> None:
    """G17: a restored job finds its bytes in the archive."""
    archive = Archive(MemoryStore(), "p")
    await archive.store.create(archive.key(payload_key(CID)), CONTENT)

    assert await PayloadArchive(payloads, archive).fetch(CID)

    assert await payloads.verify(CID)
    assert payloads.path(CID).read_bytes() == CONTENT


@pytest.mark.parametrize("stored", [None, b"something else"])
async def test_what_is_missing_or_another_content_is_not_fetched(payloads: PayloadStore, stored: bytes | None) -> None:
    """G17: no bytes but the right ones ever come under a name."""
    archive = Archive(MemoryStore(), "p")
    if stored is not None:
        await archive.store.create(archive.key(payload_key(CID)), stored)

    assert not await PayloadArchive(payloads, archive).fetch(CID)
    assert not await PayloadArchive(payloads, None).fetch(CID)

    assert not payloads.has(CID)


class Away(MemoryStore):
    """A store that cannot be asked."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def get(self, key: str) -> Object:
        raise self.error


async def test_an_archive_that_is_away_is_no_answer_and_a_damaged_object_is(payloads: PayloadStore) -> None:
    """G17: a job is parked only when it is certain that its bytes are not to be had."""
    with pytest.raises(StoreUnavailable):
        await PayloadArchive(payloads, Archive(Away(StoreUnavailable("no route")), "p")).fetch(CID)

    assert not await PayloadArchive(payloads, Archive(Away(CorruptObject("bits")), "p")).fetch(CID)


async def test_a_payload_is_stored_once(payloads: PayloadStore, tmp_path: Path) -> None:
    """Repeating it changes nothing, and a file that is damaged is refused."""
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    archive = Archive(MemoryStore(), "p")

    assert [await store_payload(archive, CID, file) for _ in range(2)] == [True, False]

    file.write_bytes(b"evil")
    with pytest.raises(CorruptObject):
        await store_payload(Archive(MemoryStore(), "p"), CID, file)
