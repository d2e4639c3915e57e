"""What `forge replicate status` asks of a store that is away: a little, and then nothing more."""

import asyncio
from pathlib import Path

import pytest

from events.archive import Archive
from events.objects.errors import StoreUnavailable
from events.objects.memory import MemoryStore
from events.objects.port import Object
from events.streams import stream_of
from forge.generation_service import LOOKED_UP_AT_ONCE, GenerationService
from projectors.document.domain import document_partition
from schemas.archive import place_key
from schemas.settings import Settings
from tests.archives import written
from tests.conftest import StartNats
from tests.notes import new_partition, opened_log
from workers.archive.looks import Looks
from workers.archive.report import partition_lags

DOCUMENTS = 5 * LOOKED_UP_AT_ONCE


class Away(MemoryStore):
    """A store that does not answer, and counts how often it was asked."""

    asked = 0

    async def get(self, key: str) -> Object:
        """Fail a moment later."""
        self.asked += 1
        await asyncio.sleep(0)
        raise StoreUnavailable(f"S3 does not answer: {key}")


async def never() -> str:
    """Wait for an answer that does not come."""
    await asyncio.Event().wait()
    return ""


async def test_a_store_that_is_away_is_not_asked_for_each_document(tmp_path: Path) -> None:
    """PR7: else the answer takes the patience of the store, times the number of documents."""
    store = Away()
    settings = Settings.load({"FORGE_DATA_DIR": str(tmp_path)})
    service, looks = GenerationService(Archive(store, "p"), settings), Looks()

    partitions = [document_partition(f"d{number}") for number in range(DOCUMENTS)]
    told = await asyncio.gather(*(service.describe(partition, looks) for partition in partitions))

    assert 1 <= store.asked <= LOOKED_UP_AT_ONCE
    assert all("S3 does not answer" in str(one.problem) for (one,) in told)
    assert len(told) == DOCUMENTS


async def test_a_store_that_is_away_is_no_damage(start_nats: StartNats) -> None:
    """`forge replicate status` ends with 6 for what is not known, with 7 for what is archived no more."""
    partition = new_partition()
    async with opened_log(await start_nats()) as event_log:
        await written(event_log, partition, 1)
        (away,) = await partition_lags(Archive(Away(), "p"), event_log.reader, [partition], Looks())
        damaged = MemoryStore()
        await damaged.create(f"p/{place_key(stream_of(partition), partition)}", b"{")
        (harmed,) = await partition_lags(Archive(damaged, "p"), event_log.reader, [partition], Looks())

    assert (away.problem, "S3 does not answer" in str(away.unknown)) == (None, True)
    assert ("damaged" in str(harmed.problem), harmed.unknown) == (True, None)


async def test_a_look_without_an_answer_ends_and_the_next_ones_are_spared() -> None:
    looks = Looks(patience_s=0.01)

    with pytest.raises(StoreUnavailable, match=r"does not answer within 0\.01 s"):
        await looks.look(never)
    with pytest.raises(StoreUnavailable, match="does not answer within"):
        await looks.look(never)
    assert looks.away


async def test_what_is_found_or_damaged_spares_nothing() -> None:
    looks = Looks()

    async def damaged() -> str:
        raise ValueError("damaged")

    async def found() -> str:
        return "found"

    with pytest.raises(ValueError, match="damaged"):
        await looks.look(damaged)
    assert await looks.look(found) == "found"
    assert looks.away == ""
