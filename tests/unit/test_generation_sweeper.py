"""Sweeping every so often, whatever becomes of the file that says what was found."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from events.archive import Archive
from events.objects.errors import StoreUnavailable
from events.objects.memory import MemoryStore
from events.objects.port import LIST_MAX, Listed
from tests.generations import PREFIX, making, written
from tests.waiting import until
from workers.generations.gate import Gate
from workers.generations.sweeper import Sweeper
from workers.generations.sweeping import sweep

GRACE_S = 100.0


class Away(MemoryStore):
    """A store that lists no chunks while it is `away`."""

    away = False

    async def list(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> list[Listed]:
        """Return one page of keys, or nothing."""
        if self.away and "/pages/" in prefix:
            raise StoreUnavailable("as asked")
        return list(await super().list(prefix, after=after, limit=limit))


async def test_sweeping_goes_on_where_its_file_could_not_be_read_at_the_start(tmp_path: Path) -> None:
    """PR7: and that it could not is said."""
    folder = tmp_path / "sweeps"
    folder.write_text("in the way of the folder")
    with capture_logs() as said:
        async with Sweeper(Archive(MemoryStore(), PREFIX), folder / "marks.db", Gate(), every_s=0.05, grace_s=1):
            await until(lambda: len(said) >= 2)
            folder.unlink()
            await until(lambda: said[-1]["event"] == "chunks swept")
    assert [one["event"] for one in said[:2]] == ["nobody knows when chunks were swept", "chunks not swept"]


async def test_what_was_named_meanwhile_stays_for_as_long_as_anything_else(tmp_path: Path) -> None:
    """PR4: also if the sweep that saw it named did not come to its end."""
    store = Away()
    async with written(tmp_path / "node", store) as notes:
        await notes.write("one")
        async with making(notes.archive, tmp_path / "scratch") as maker:
            found = (await maker.make(notes.partition, notes.spec)).generation
        assert found is not None
        key = notes.archive.key(str(found.key))
        generation = store.objects.pop(key)

        async def swept(now_s: float) -> int:
            done = await sweep(notes.archive, tmp_path / "marks.db", Gate(), grace_s=GRACE_S, now_s=now_s)
            assert done.named in (0, len(set(found.chunks)))
            return done.removed

        assert await swept(0) == 0
        store.objects[key], store.away = generation, True
        with pytest.raises(StoreUnavailable):
            await swept(2 * GRACE_S)
        del store.objects[key]
        store.away = False
        assert await swept(3 * GRACE_S) == 0
        assert await swept(4 * GRACE_S) == len(set(found.chunks))


async def test_history_is_pruned_before_chunks_are_swept(tmp_path: Path) -> None:
    """G26: a look at histories that fails is said, and keeps no chunk."""
    looked: list[str] = []

    async def prune(now: str) -> None:
        looked.append(now)
        if len(looked) == 1:
            raise StoreUnavailable("as asked")

    archive, marks = Archive(MemoryStore(), PREFIX), tmp_path / "marks.db"
    with capture_logs() as said:
        async with Sweeper(archive, marks, Gate(), every_s=0.05, grace_s=1, prune=prune):
            await until(lambda: len(said) >= 3)
    assert [one["event"] for one in said[:3]] == ["history not pruned", "chunks swept", "chunks swept"]
    assert len(looked) >= 2
