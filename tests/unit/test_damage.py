"""Stored texts that cannot be read: what is said of them is one line, and says where."""

from collections.abc import Awaitable, Callable

import pytest

from events.archive import Archive
from events.archived_place import recorded_place
from events.objects.memory import MemoryStore
from projectors.generations.reading import current, manifest
from schemas.archive import epoch_key, place_key
from schemas.generation import GenerationKey, current_key
from schemas.ids import PartitionId, Position

NOTES, AT = PartitionId("doc", "notes"), Position(1, 5)
READ: dict[str, Callable[[Archive], Awaitable[object]]] = {
    place_key("FORGE_DOCS", NOTES): lambda archive: recorded_place(archive, NOTES),
    epoch_key(2): lambda archive: archive.epochs.refresh(),
    current_key("doc/notes"): lambda archive: current(archive, "doc/notes"),
    str(GenerationKey("doc/notes", AT)): lambda archive: manifest(archive, "doc/notes", AT),
}


@pytest.mark.parametrize("key", READ)
@pytest.mark.parametrize(("text", "place"), [("{", "its JSON"), ('{"time": 5, "partition": 1, "epoch": "x"}', r"\w+")])
async def test_what_is_wrong_with_a_stored_text_is_said_in_one_line(key: str, text: str, place: str) -> None:
    """It is shown in tables, and read by people who do not know the library that found it."""
    store = MemoryStore()
    await store.put(f"p/{key}", text.encode())
    with pytest.raises(Exception, match=f"^p/{key} .*: it is damaged at {place}$"):
        await READ[key](Archive(store, "p"))
