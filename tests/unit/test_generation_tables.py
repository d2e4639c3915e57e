"""The folder in which the pages of last generations are remembered: bounded, and never believed without a reason."""

import os
from pathlib import Path

import pytest

from tests.generations import making, written
from workers.generations.making import Result
from workers.generations.page_table import PageTable
from workers.generations.page_tables import PageTables


def table(number: int) -> PageTable:
    return PageTable(f"{number:064x}", 4096, 65536, ["ab" * 32], ["ab" * 32], bytes([number]) * 16 * 100, [])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "pages"


def tables(folder: Path, **bounds: int) -> PageTables:
    return PageTables(folder, folder.with_name("scratch"), **bounds)


def test_a_table_counts_for_the_manifest_that_it_names_alone(folder: Path) -> None:
    """One of another generation, or none, or a file that is something else, says nothing."""
    known = tables(folder)
    known.write("doc/a", table(1))
    assert known.read("doc/a", table(1).manifest) == table(1)
    assert known.read("doc/a", table(2).manifest) is None
    assert known.read("doc/b", table(1).manifest) is None
    known.write("doc/a", table(2))
    assert known.read("doc/a", table(1).manifest) is None
    (path,) = folder.iterdir()
    path.write_bytes(b"")
    assert known.read("doc/a", table(2).manifest) is None
    known.remove("doc/a")
    known.remove("doc/a")
    assert not list(folder.iterdir())
    assert not list(folder.with_name("scratch").iterdir())


@pytest.mark.parametrize("bounds", [{"tables_max": 3}, {"bytes_max": 3 * len(bytes(table(1)))}], ids=str)
def test_the_oldest_tables_go_when_there_are_too_many(folder: Path, bounds: dict[str, int]) -> None:
    """PR7: by their number, and by what they take."""
    known = tables(folder, **bounds)
    for n in range(6):
        known.write(f"doc/{n}", table(n))
        for path in folder.iterdir():  # as if a minute had gone by
            told = path.stat()
            os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns - 60 * 10**9))
    left = [n for n in range(6) if known.read(f"doc/{n}", table(n).manifest)]
    assert left == [3, 4, 5]


async def test_a_projection_that_is_gone_leaves_no_table(tmp_path: Path) -> None:
    async with written(tmp_path / "node") as notes:
        await notes.write(*(f"{n} " * 2000 for n in range(100)))
        async with making(notes.archive, tmp_path / "scratch") as maker:
            await maker.make(notes.partition, notes.spec)
            assert len(list((tmp_path / "pages").iterdir())) == 1
            notes.close()
            notes.spec.path.unlink()
            assert (await maker.make(notes.partition, notes.spec)).result is Result.ABSENT
        assert not list((tmp_path / "pages").iterdir())
