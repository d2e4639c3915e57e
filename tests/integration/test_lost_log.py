"""A log that is not the one that its archive tells of is recognised, in few requests."""

from pathlib import Path

import pytest

from events.objects.memory import MemoryStore
from events.objects.port import Object
from events.streams import stream_state
from forge.restore.lost_log import lost_log
from schemas.archive import Mark, mark_key
from tests.archives import PREFIX
from tests.conftest import StartNats
from tests.notes import new_partition
from tests.restoring import machine

STREAM = "FORGE_DOCS"


async def test_a_log_that_ends_before_what_was_archived_of_it_is_an_older_one(
    start_nats: StartNats, tmp_path: Path
) -> None:
    """PR3: whoever went on with it gave positions that are archived once more."""
    store, partition = MemoryStore(), new_partition()
    async with (
        machine(tmp_path / "here", await start_nats(), store) as here,
        machine(tmp_path / "newer", await start_nats(), store) as newer,
    ):
        assert await lost_log(here.log.reader, here.archive) == "its log is gone"
        await here.archived(partition, await here.write(partition, "one"))
        assert await lost_log(here.log.reader, here.archive) == ""

        await newer.restore(partition)
        end = await newer.write(partition, "two")
        await newer.archived(partition, end)
        assert f"{partition} ends at 1.1, but 1.2 is archived" in await lost_log(here.log.reader, here.archive)
        assert await lost_log(newer.log.reader, newer.archive) == ""

        state = await stream_state(newer.log.reader, STREAM)
        mark = Mark(sequence=state.last_sequence, created=state.created, busy=(), seen=state.last_sequence + 1)
        await store.put(f"{PREFIX}/{mark_key(STREAM)}", mark.model_dump_json().encode())
        assert f"{STREAM} ends at message {state.last_sequence}" in await lost_log(newer.log.reader, newer.archive)
        assert await lost_log(here.log.reader, here.archive) == "", "a mark of another log tells nothing of this one"


@pytest.mark.parametrize("damage", [Object(b"{}", "another"), None])
async def test_where_a_mark_is_damaged_every_partition_of_the_stream_is_compared(
    start_nats: StartNats, tmp_path: Path, damage: Object | None
) -> None:
    """PR3: a hint that is lost must not let an older log pass."""
    store, partition = MemoryStore(), new_partition()
    async with (
        machine(tmp_path / "here", await start_nats(), store) as here,
        machine(tmp_path / "newer", await start_nats(), store) as newer,
    ):
        await here.archived(partition, await here.write(partition, "one"))
        await newer.restore(partition)
        await newer.archived(partition, await newer.write(partition, "two"))
        key = f"{PREFIX}/{mark_key(STREAM)}"
        if damage:
            store.objects[key] = damage
        else:
            await store.put(key, b"no JSON")

        assert f"{partition} ends at 1.1, but 1.2 is archived" in await lost_log(here.log.reader, here.archive)
        assert await lost_log(newer.log.reader, newer.archive) == ""
