"""Which pages and chunks a generation stores: always enough for its file, never much more than what changed."""

import random
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from blake3 import blake3

from projectors.generations.patches import pages_max
from schemas.generation import PATCHES_MAX
from tests.faults.killer import fresh_seed
from workers.generations.chunking import Cut
from workers.generations.page_table import Damaged, PageTable, Patch, read_table
from workers.generations.planning import PATCHED_SHARE, SMALL_MAX, Plan, plan

PAGE, CHUNK = 4096, 64 << 10
IN_CHUNK = CHUNK // PAGE


class Simulated(NamedTuple):
    """A file whose pages are 16 bytes each, told to the planner as pages of 4 KiB."""

    pages: list[bytes]

    @property
    def cut(self) -> Cut:
        """What the planner is told of it."""
        chunks = [blake3(one).hexdigest() for one in self.chunks]
        return Cut(PAGE, CHUNK, chunks, "", len(self.pages) * PAGE, b"".join(self.pages))

    @property
    def chunks(self) -> list[bytes]:
        """Its chunks."""
        return [b"".join(self.pages[at : at + IN_CHUNK]) for at in range(0, len(self.pages), IN_CHUNK)]


class Store:
    """Chunks and patches as an archive has them, and how many pages were stored."""

    def __init__(self) -> None:
        self.chunks: dict[str, bytes] = {}
        self.patches: dict[str, dict[int, bytes]] = {}
        self.stored_pages = 0

    def generation(self, file: Simulated, table: PageTable | None) -> tuple[Plan, PageTable]:
        """Store what a plan says; return it with the table of what is stored then."""
        made = plan(cut := file.cut, table)
        for cid, data in zip(cut.chunks, file.chunks, strict=True):
            if cid in made.chunks and cid not in self.chunks:
                self.chunks[cid] = data
                self.stored_pages += len(data) // 16
        patches, size = list(made.kept), pages_max(PAGE)
        for start in range(0, len(made.pages), size):
            numbers = made.pages[start : start + size]
            held = {int(n): file.pages[n - 1] for n in numbers}
            cid = blake3(repr(held).encode()).hexdigest()
            self.patches[cid] = held
            self.stored_pages += len(held)
            patches.append(Patch(cid, numbers))
        manifest = blake3(repr(cut.chunks).encode()).hexdigest()
        return made, PageTable(manifest, PAGE, CHUNK, made.chunks, cut.chunks, cut.hashes, patches)

    def file(self, table: PageTable, count: int) -> list[bytes]:
        """Return the file of a generation as a restore would make it."""
        pages: dict[int, bytes] = {}
        for place, cid in enumerate(table.base):
            data = self.chunks[cid]
            pages |= {place * IN_CHUNK + n + 1: data[n * 16 : n * 16 + 16] for n in range(len(data) // 16)}
        for patch in table.patches:
            pages |= self.patches[patch.cid]
        return [pages.get(n, bytes(16)) for n in range(1, count + 1)]


def changed(pages: list[bytes], rng: random.Random) -> list[bytes]:
    """Return a file after some change: here and there, in one place, longer, shorter, moved, or all of it."""
    pages = list(pages)
    kind = rng.choice(["few", "few", "few", "hot", "range", "grow", "shrink", "moved", "all", "back"])
    count = len(pages)
    if kind == "few":
        where = [rng.randrange(count) for _ in range(rng.randrange(1, 40))]
    elif kind == "hot":
        where = [rng.randrange(min(count, 64)) for _ in range(rng.randrange(1, 60))]
    elif kind == "range":
        first = rng.randrange(count)
        where = list(range(first, min(count, first + rng.randrange(1, 300))))
    elif kind == "all":
        where = list(range(count)) if rng.random() < 0.2 else []
    else:
        where = [0]
    for n in where:
        pages[n] = rng.randbytes(16)
    if kind == "grow":
        pages += [rng.randbytes(16) for _ in range(rng.randrange(1, 400))]
    elif kind == "shrink":
        del pages[max(IN_CHUNK * 4, count - rng.randrange(1, 400)) :]
    elif kind == "moved":
        a, b = rng.randrange(count), rng.randrange(count)
        pages[a], pages[b] = pages[b], pages[a]
    return pages


@pytest.mark.parametrize("count", [70, 400, 3000])
def test_chunks_and_patches_give_the_file_whatever_changed(count: int) -> None:
    """PR4, PR7: also when what is known is lost in between; patches stay within their bounds."""
    rng, store, table, seen = random.Random(fresh_seed()), Store(), None, set()
    pages = [rng.randbytes(16) for _ in range(count)]
    for _ in range(120):
        before = pages
        pages = changed(pages, rng)
        if rng.random() < 0.1:
            pages = before  # as it was
        made, table = store.generation(Simulated(pages), table)
        assert store.file(table, len(pages)) == pages
        assert made.is_patched or made.chunks == Simulated(pages).cut.chunks
        held = sum(len(patch.numbers) for patch in table.patches)
        assert held <= PATCHED_SHARE * len(pages)
        assert len(table.patches) <= PATCHES_MAX
        assert all(len(patch.numbers) <= pages_max(PAGE) for patch in table.patches)
        seen.add("patched" if made.is_patched else "whole")
        if rng.random() < 0.05:
            table = None
    assert seen == {"patched", "whole"}


def test_the_last_chunk_of_a_shorter_file_is_stored_anew_if_no_patch_cuts_it_off() -> None:
    """PR4: nothing in it changed, but it ends sooner, and what did change is in chunks that are stored whole."""
    rng, store = random.Random(fresh_seed()), Store()
    pages = [rng.randbytes(16) for _ in range(10 * IN_CHUNK)]
    _, table = store.generation(Simulated(pages), None)
    shorter = Simulated([*(rng.randbytes(16) for _ in range(IN_CHUNK)), *pages[IN_CHUNK:-5]])
    made, _ = store.generation(shorter, table)
    assert (made.is_patched, made.chunks) == (False, shorter.cut.chunks)


@pytest.mark.parametrize("each", [1, 4, 30, 300])
@pytest.mark.parametrize("where", ["anywhere", "hot"])
def test_what_is_stored_is_in_proportion_to_what_changed(each: int, where: str) -> None:
    """G26, K3.6: over many generations no page that changed costs more than a few, folding and merging included."""
    rng, store = random.Random(fresh_seed()), Store()
    count, generations = 8000, 150
    pages = [rng.randbytes(16) for _ in range(count)]
    _, table = store.generation(Simulated(pages), None)
    first = store.stored_pages
    changes = 0
    for _ in range(generations):
        spots = rng.sample(range(count if where == "anywhere" else 400), each)
        for n in spots:
            pages[n] = rng.randbytes(16)
        changes += len(spots)
        _, table = store.generation(Simulated(pages), table)
        small = [patch for patch in table.patches if 2 * len(patch.numbers) < pages_max(PAGE)]
        assert len(small) <= SMALL_MAX + 1
    assert store.file(table, count) == pages
    assert store.stored_pages - first <= 6 * changes


def test_a_table_is_read_back_and_refused_when_a_bit_of_it_is_another() -> None:
    rng = random.Random(fresh_seed())
    _, table = Store().generation(Simulated([rng.randbytes(16) for _ in range(100)]), None)
    table = replace(
        table, patches=[Patch("ab" * 32, np.array([1, 7], np.uint32)), Patch("cd" * 32, np.array([], np.uint32))]
    )
    data = bytes(table)
    again = read_table(data)
    assert bytes(again) == data
    assert [patch.numbers.tolist() for patch in again.patches] == [[1, 7], []]
    for place in rng.sample(range(len(data)), 50):
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.randrange(8)
        with pytest.raises(Damaged):
            read_table(bytes(damaged))
    for length in (0, 3, 40, len(data) - 1):
        with pytest.raises(Damaged):
            read_table(data[:length])


@pytest.mark.parametrize(("page_size", "chunk_bytes"), [(8192, CHUNK), (PAGE, CHUNK * 4)])
def test_pages_of_another_size_say_nothing(page_size: int, chunk_bytes: int) -> None:
    """The file was made anew with other pages, or is cut in another way: its chunks are stored."""
    file = Simulated([bytes([n]) * 16 for n in range(100)])
    _, table = Store().generation(file, None)
    other = Simulated([*file.pages[:50], b"x" * 16, *file.pages[51:]])
    assert plan(other.cut, table).is_patched
    assert plan(other.cut, replace(table, page_size=page_size, chunk_bytes=chunk_bytes)) == Plan(other.cut.chunks)
