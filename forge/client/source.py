"""The bytes of one upload, readable again from the start for each attempt."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from forge.client.errors import SourceChanged

CHUNK_BYTES = 1 << 20


class Source(Protocol):
    """Bytes of a known size that can be read from the start as often as needed."""

    @property
    def size_bytes(self) -> int: ...

    def chunks(self) -> bytes | AsyncIterator[bytes]:
        """Return all bytes, or an iterator of them from the start."""
        ...


@dataclass(frozen=True, slots=True)
class BytesSource:
    """Bytes in memory."""

    content: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def chunks(self) -> bytes:
        return self.content


@dataclass(frozen=True, slots=True)
class DescriptorSource:
    """The first `size_bytes` of an open file; its file position is neither used nor moved."""

    descriptor: int
    size_bytes: int

    async def chunks(self) -> AsyncIterator[bytes]:
        offset = 0
        while offset < self.size_bytes:
            wanted = min(CHUNK_BYTES, self.size_bytes - offset)
            chunk = await asyncio.to_thread(os.pread, self.descriptor, wanted, offset)
            if not chunk:
                raise SourceChanged(f"expected {self.size_bytes} bytes, found {offset}")
            offset += len(chunk)
            yield chunk


@dataclass(frozen=True, slots=True)
class PathSource:
    """A file, opened anew for each attempt."""

    path: Path

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size

    async def chunks(self) -> AsyncIterator[bytes]:
        with self.path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            async for chunk in DescriptorSource(file.fileno(), size).chunks():
                yield chunk


def as_source(source: Source | bytes | Path | str | BinaryIO) -> Source:
    """Return `source` as bytes that can be sent more than once; an open file is sent from its start."""
    match source:
        case bytes():
            return BytesSource(source)
        case Path() | str():
            return PathSource(Path(source))
        case BytesSource() | DescriptorSource() | PathSource():
            return source
    if hasattr(source, "fileno"):
        descriptor = source.fileno()
        return DescriptorSource(descriptor, os.fstat(descriptor).st_size)
    return source
