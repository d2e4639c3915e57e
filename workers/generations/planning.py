"""What of a file a generation stores: patches of the pages that changed, or whole chunks where that costs less.

A patch counts until it is *folded*: the chunks of which much is patched are stored whole, and the few other patched
pages in new patches. That happens when all patches together hold more than `PATCHED_SHARE` of the file, so that a
restore reads at most so much more. docs/decisions/generations.md has the arithmetic.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from projectors.generations.patches import pages_max
from schemas.generation import PATCHES_MAX
from workers.generations.chunking import Cut
from workers.generations.page_table import HASH_BYTES, Numbers, PageTable, Patch

PATCHED_SHARE = 1 / 2
DENSE_SHARE = 1 / 2  # of a chunk's pages changed since the generation before: it is stored whole
FOLDED_SHARE = 1 / 8  # of a chunk's pages in patches when these are folded: it is stored whole
SMALL_MAX = 16  # patches that are less than half full; more are written again as one

_Mask: TypeAlias = NDArray[np.bool_]
_NONE: Numbers = np.zeros(0, np.uint32)


class Plan(NamedTuple):
    """Chunks of the file, in its order, patches of earlier generations that go on counting, and pages for new ones."""

    chunks: Sequence[str]
    kept: Sequence[Patch] = ()
    pages: Numbers = _NONE

    @property
    def is_patched(self) -> bool:
        """Whether there are patches at all."""
        return bool(self.kept) or len(self.pages) > 0


def plan(cut: Cut, table: PageTable | None) -> Plan:
    """Return what to store of a file; `table` is that of the generation before, None if nothing is known of it."""
    if table is None or (table.page_size, table.chunk_bytes) != (cut.page_size, cut.chunk_bytes) or not cut.hashes:
        return Plan(cut.chunks)
    found = _patched(_Pages(cut, table))
    # Without patches nothing cuts off what an unchanged last chunk of a file that became shorter holds behind its end.
    return found if found.is_patched else Plan(cut.chunks)


def _patched(pages: "_Pages") -> Plan:
    cut, table, changed = pages.cut, pages.table, pages.changed()
    small = [patch for patch in table.patches if not _is_full(patch, cut)]
    again = small if len(small) > SMALL_MAX else []
    kept = [patch for patch in table.patches if not again or _is_full(patch, cut)]
    patched = pages.held(kept)
    whole = pages.by_chunk(changed) > DENSE_SHARE * pages.sizes
    whole[len(table.base) :] = True
    # Older patches would be written over a chunk that is stored whole: their pages of it are patched once more.
    wanted = np.where(pages.of(whole), patched, changed | pages.held(again))
    found = Plan(pages.chunks(whole), kept, pages.numbers(wanted))
    return found if _is_bounded(found, pages) else _folded(pages, changed)


def _is_full(patch: Patch, cut: Cut) -> bool:
    return 2 * len(patch.numbers) >= pages_max(cut.page_size)


def _folded(pages: "_Pages", changed: _Mask) -> Plan:
    dirty = changed | pages.held(pages.table.patches)
    whole = pages.by_chunk(dirty) >= FOLDED_SHARE * pages.sizes
    whole[len(pages.table.base) :] = True
    found = Plan(pages.chunks(whole), (), pages.numbers(dirty & ~pages.of(whole)))
    return found if _is_bounded(found, pages) else Plan(pages.cut.chunks)


def _is_bounded(plan: Plan, pages: "_Pages") -> bool:
    held = sum(len(patch.numbers) for patch in plan.kept) + len(plan.pages)
    patches = len(plan.kept) + -(-len(plan.pages) // pages_max(pages.cut.page_size))
    return held <= PATCHED_SHARE * pages.count and patches <= PATCHES_MAX


class _Pages:
    """The pages of a file beside those of the generation before."""

    def __init__(self, cut: Cut, table: PageTable) -> None:
        self.cut = cut
        self.table = table
        self.count = len(cut.hashes) // HASH_BYTES
        self._in_chunk = cut.chunk_bytes // cut.page_size
        self._starts = np.arange(0, self.count, self._in_chunk)
        self.sizes = self.by_chunk(np.ones(self.count, np.bool_))

    def changed(self) -> _Mask:
        """Return which pages are not as they were, or new."""
        now, was = (np.frombuffer(one, np.uint64).reshape(-1, 2) for one in (self.cut.hashes, self.table.hashes))
        changed = np.ones(self.count, np.bool_)
        both = min(len(now), len(was))
        changed[:both] = (now[:both] != was[:both]).any(axis=1)
        return changed

    def held(self, patches: Sequence[Patch]) -> _Mask:
        """Return which pages some of `patches` hold."""
        held = np.zeros(self.count + 1, np.bool_)
        for patch in patches:
            held[patch.numbers[patch.numbers <= self.count]] = True
        return held[1:]

    def by_chunk(self, mask: _Mask) -> NDArray[np.int64]:
        """Return how many pages of each chunk are in `mask`."""
        return np.add.reduceat(mask, self._starts, dtype=np.int64)

    def of(self, whole: _Mask) -> _Mask:
        """Return which pages are in chunks that are `whole`."""
        return np.repeat(whole, self._in_chunk)[: self.count]

    def chunks(self, whole: _Mask) -> list[str]:
        """Return the chunks as they are now if `whole`, else as they were."""
        before, now = self.table.base, self.cut.chunks
        return [now[n] if is_whole else before[n] for n, is_whole in enumerate(whole)]

    def numbers(self, mask: _Mask) -> Numbers:
        """Return the numbers of the pages in `mask`, from 1 on."""
        return (np.flatnonzero(mask) + 1).astype(np.uint32)
