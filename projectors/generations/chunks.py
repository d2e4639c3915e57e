"""Chunks of files as they are stored: packed, under the hash of their plain bytes; and lists of them."""

from collections.abc import Iterator, Sequence

import zstandard
from blake3 import blake3

from projectors.generations.errors import GenerationDamaged
from schemas.generation import PART_CHUNKS

LEVEL = 3
HASH_BYTES = 32


def pack(data: bytes) -> bytes:
    """Return a chunk as it is stored."""
    return zstandard.ZstdCompressor(level=LEVEL).compress(data)


def unpack(raw: bytes, cid: str, bytes_max: int) -> bytes:
    """Return the chunk `cid`; raise `GenerationDamaged` if `raw` holds anything else, or more than `bytes_max`."""
    try:
        if not 0 <= zstandard.frame_content_size(raw) <= bytes_max:
            raise GenerationDamaged(f"chunk {cid} holds more than {bytes_max} bytes")
        data = zstandard.ZstdDecompressor().decompress(raw, max_output_size=bytes_max)
    except zstandard.ZstdError as error:
        raise GenerationDamaged(f"chunk {cid} cannot be unpacked: {error}") from error
    if blake3(data).hexdigest() != cid:
        raise GenerationDamaged(f"chunk {cid} holds other bytes")
    return data


def parts_of(chunks: Sequence[str]) -> Iterator[bytes]:
    """Yield a long list of chunks in parts."""
    for start in range(0, len(chunks), PART_CHUNKS):
        yield b"".join(bytes.fromhex(cid) for cid in chunks[start : start + PART_CHUNKS])


def chunks_in(part: bytes, count: int) -> list[str]:
    """Return the chunks of one part; raise `GenerationDamaged` unless there are `count`."""
    if len(part) != count * HASH_BYTES:
        raise GenerationDamaged(f"a list of {len(part)} bytes does not name {count} chunks")
    return [part[at : at + HASH_BYTES].hex() for at in range(0, len(part), HASH_BYTES)]
