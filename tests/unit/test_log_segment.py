"""`forge log segment`: what was kept aside can be read."""

import json
from pathlib import Path

import pytest

from forge.cli import main
from tests.generations import written


async def _segment(folder: Path) -> Path:
    async with written(folder / "node") as notes:
        await notes.write("a", "b")
        (key,) = [found.key for found in await notes.store.list("") if found.key.endswith(".seg")]
        path = folder / "kept.seg"
        path.write_bytes((await notes.store.get(key)).data)
        return path


async def test_the_records_of_a_segment_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = await _segment(tmp_path)

    assert main.run(["log", "segment", str(path), "--json"]) == 0

    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["position"], one["data"]["text"]) for one in printed] == [("1.1", "a"), ("1.2", "b")]


async def test_a_damaged_segment_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """K3.6: one bad bit, and nothing of it is printed."""
    path = await _segment(tmp_path)
    altered = bytearray(path.read_bytes())
    altered[-40] ^= 1
    path.write_bytes(altered)

    assert main.run(["log", "segment", str(path)]) == 7

    said = capsys.readouterr()
    assert said.out == ""
    assert "altered" in said.err
