"""Ranges of bytes (RFC 9110, section 14): one at a time, and a file sent in parts."""

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

from projectors.threads import Threads
from schemas.problems import RANGE_NOT_SATISFIABLE, Refusal

PART_BYTES = 256 << 10
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte and the one after the last that a `Range` header asks for, None for all.

    What is no single range of bytes is passed over, as the RFC allows; one beyond the end is refused (416).
    """
    found = _RANGE.fullmatch((header or "").strip().replace(" ", ""))
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found[1], found[2]
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= end:
        why = f"{header} lies outside of {size} bytes"
        raise Refusal(RANGE_NOT_SATISFIABLE.problem(why, field="Range"), {"content-range": f"bytes */{size}"})
    return start, end


class FileParts:
    """The bytes of a file from `start` to before `end`; the file may be removed meanwhile."""

    def __init__(self, path: Path, start: int, end: int, threads: Threads) -> None:
        """Raise `FileNotFoundError` if it is gone already."""
        self._file = os.open(path, os.O_RDONLY)
        self._at = start
        self._end = end
        self._threads = threads

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        wanted = min(PART_BYTES, self._end - self._at)
        part = await self._threads.run(os.pread, self._file, wanted, self._at) if wanted else b""
        if not part:
            raise StopAsyncIteration
        self._at += len(part)
        return part

    async def aclose(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
