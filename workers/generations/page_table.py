"""What is remembered of a projection's last generation: a hash of every page, and which pages its patches hold.

With it the next generation tells which pages have changed without reading the archive. As bytes: what it is, a BLAKE3
of all that follows, the length of the head, the head in JSON, the hashes, and the numbers of the patches' pages.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

HASH_BYTES = 16  # two pages that are different are never taken for equal, also if somebody tries
_KIND = b"forge pages 1\n"
_HEAD = len(_KIND) + blake3.digest_size
_LENGTH_BYTES = 4

Numbers: TypeAlias = NDArray[np.uint32]


class Damaged(Exception):
    """Bytes are no table of pages."""


class Patch(NamedTuple):
    """One patch of a generation, and the numbers of the pages that it holds, from 1 on."""

    cid: str
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class PageTable:
    """The pages of a generation whose manifest has the BLAKE3 `manifest`.

    `base` are the chunks that it names, `chunks` those of its file: they differ where it has patches.
    """

    manifest: str
    page_size: int
    chunk_bytes: int
    base: Sequence[str]
    chunks: Sequence[str]
    hashes: bytes
    patches: Sequence[Patch]

    def __bytes__(self) -> bytes:
        head: dict[str, Any] = {
            "manifest": self.manifest,
            "page_size": self.page_size,
            "chunk_bytes": self.chunk_bytes,
            "base": list(self.base),
            "chunks": list(self.chunks),
            "pages": len(self.hashes) // HASH_BYTES,
            "patches": [(patch.cid, len(patch.numbers)) for patch in self.patches],
        }
        told = json.dumps(head).encode()
        numbers = [patch.numbers.astype("<u4").tobytes() for patch in self.patches]
        body = b"".join([len(told).to_bytes(_LENGTH_BYTES), told, self.hashes, *numbers])
        return _KIND + blake3(body).digest() + body


def read_table(data: bytes) -> PageTable:
    """Read a table; raise `Damaged`."""
    body = memoryview(data)[_HEAD:]
    if data[:_HEAD] != _KIND + blake3(body).digest():
        raise Damaged("not what was written")
    start = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES])
    head = json.loads(bytes(body[_LENGTH_BYTES:start]))
    end = start + head["pages"] * HASH_BYTES
    numbers = np.frombuffer(body[end:], "<u4")
    patches, place = [], 0
    for cid, count in head["patches"]:
        patches.append(Patch(cid, numbers[place : place + count]))
        place += count
    told = (head["manifest"], head["page_size"], head["chunk_bytes"], head["base"], head["chunks"])
    return PageTable(*told, bytes(body[start:end]), patches)
