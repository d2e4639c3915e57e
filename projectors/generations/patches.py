"""Patches of generations: some pages of a file, each with its number, to be written over what is there.

A patch is how many pages it has, their numbers (from 1, as SQLite counts them), each in 4 bytes with the highest first,
and then the pages in that order.
"""

import struct
from collections.abc import Iterator, Sequence

from projectors.generations.errors import GenerationDamaged
from schemas.generation import PATCH_BYTES

NUMBER_BYTES = 4


def pages_max(page_size: int) -> int:
    """Return how many pages one patch holds at most."""
    return max(1, PATCH_BYTES // page_size)


def patch_bytes_max(page_size: int) -> int:
    """Return how large a patch is at most."""
    return NUMBER_BYTES + pages_max(page_size) * (NUMBER_BYTES + page_size)


def patch_of(numbers: Sequence[int], pages: Sequence[bytes]) -> bytes:
    """Return the patch that writes `pages` at `numbers`."""
    return struct.pack(f">I{len(numbers)}I", len(numbers), *numbers) + b"".join(pages)


def pages_in(patch: bytes, page_size: int) -> Iterator[tuple[int, memoryview]]:
    """Yield each page of a patch with its number; raise `GenerationDamaged` for what is no patch."""
    count = int.from_bytes(patch[:NUMBER_BYTES])
    start = NUMBER_BYTES * (count + 1)
    if len(patch) != start + count * page_size:
        raise GenerationDamaged(f"{len(patch)} bytes are no patch of {count} pages of {page_size} bytes")
    pages = memoryview(patch)[start:]
    for place, number in enumerate(struct.unpack_from(f">{count}I", patch, NUMBER_BYTES)):
        if number < 1:
            raise GenerationDamaged("a patch names page 0, which no file has")
        yield number, pages[place * page_size : (place + 1) * page_size]
