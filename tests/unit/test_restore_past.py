"""One projection of the past, made of the archive alone: found by position and by time, and put where nothing is."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from events.errors import LogDamaged
from events.objects.memory import MemoryStore
from forge.cli import main
from forge.restore.past import NotInArchive, Past, find, make
from projectors.rebuild import digest_of
from projectors.threads import Threads
from schemas.ids import Position
from schemas.instants import later
from tests.generations import Written, making, written
from tests.notes import TIME, new_partition


@pytest_asyncio.fixture
async def notes(tmp_path: Path) -> AsyncIterator[Written]:
    async with written(tmp_path / "node") as opened:
        yield opened


async def past(notes: Written, moment: Position | str | None, target: Path) -> Past:
    end = await find(notes.archive, notes.partition, moment)
    with Threads(1) as threads:
        return await make(notes.archive, threads, notes.domain, notes.partition, notes.spec, end, target)


async def test_every_position_comes_back_as_it_was(notes: Written, tmp_path: Path) -> None:
    """PR4, K3.5: from the beginning, or from the newest generation that is not later."""
    await notes.write(*"abc")
    async with making(notes.archive, tmp_path / "making") as maker:
        await maker.make(notes.partition, notes.spec)
    await notes.write(*"de")

    for position, digest in notes.digests.items():
        made = await past(notes, position, tmp_path / f"{position}.db")
        assert digest_of(Path(made.path)) == digest
        assert os.stat(made.path).st_mode & 0o777 == 0o600, "with or without a generation, nobody else reads it"
        assert (made.position, made.time) == (str(position), TIME)
        assert made.generation == ("1.3" if position >= Position(1, 3) else None)
    assert (await past(notes, None, tmp_path / "last.db")).position == "1.5"
    assert (await past(notes, TIME, tmp_path / "now.db")).position == "1.5"


@pytest.mark.parametrize(
    ("moment", "why"),
    [
        (Position(1, 9), "ends at 1.2"),
        (Position(2, 2), "has no record 2.2"),
        (later(TIME, -1), f"before .* begins with 1.1 at {TIME}"),
    ],
)
async def test_what_the_archive_does_not_hold_is_said(notes: Written, moment: Position | str, why: str) -> None:
    await notes.write(*"ab")

    with pytest.raises(NotInArchive, match=why):
        await find(notes.archive, notes.partition, moment)
    with pytest.raises(NotInArchive, match="nothing of"):
        await find(notes.archive, new_partition(), None)


async def test_nothing_is_overwritten_and_nothing_is_left_half_made(notes: Written, tmp_path: Path) -> None:
    """K3.6: also when the archive is damaged."""
    await notes.write(*"ab")
    (tmp_path / "there.db").write_bytes(b"mine")

    with pytest.raises(FileExistsError):
        await past(notes, None, tmp_path / "there.db")
    with pytest.raises(NotADirectoryError):
        await past(notes, None, tmp_path / "nowhere" / "a.db")
    assert isinstance(notes.store, MemoryStore)
    key = next(key for key in notes.store.objects if key.endswith(".seg"))
    end = await find(notes.archive, notes.partition, None)
    notes.store.objects[key] = notes.store.objects[key]._replace(data=b"FORGESEG broken")
    with pytest.raises(LogDamaged), Threads(1) as threads:
        await make(notes.archive, threads, notes.domain, notes.partition, notes.spec, end, tmp_path / "new.db")

    assert (tmp_path / "there.db").read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["node", "there.db"]


@pytest.mark.parametrize("arguments", [["d"], ["--at", "1.1"], ["--to", "x.db"], ["d", "--at", "1.1"]])
def test_half_a_wish_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["restore", *arguments]) == 2
    assert "both NAME and --to" in capsys.readouterr().err


def test_without_a_store_it_is_said_which_settings_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FORGE_S3_BUCKET", raising=False)

    assert main.run(["restore", "d", "--to", str(tmp_path / "d.db"), "--data-dir", str(tmp_path / "data")]) == 2

    assert "set FORGE_S3_BUCKET" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
