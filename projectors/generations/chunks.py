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


def unpack(raw: bytes, cid: str, size_bytes: int) -> bytes:
    """Return the chunk `cid` of `size_bytes`; raise `GenerationDamaged` if `raw` holds anything else."""
    try:
        if zstandard.frame_content_size(raw) != size_bytes:
            raise GenerationDamaged(f"chunk {cid} does not hold {size_bytes} bytes")
        data = zstandard.ZstdDecompressor().decompress(raw, max_output_size=size_bytes)
    except zstandard.ZstdError as error:
        raise GenerationDamaged(f"chunk {cid} cannot be unpacked: {error}") from error
    if blake3(data).hexdigest() != cid:
        raise GenerationDamaged(f"chunk {cid} holds other bytes")
    return data


def parts_of(chunks: Sequence[str]) -> Iterator[bytes]:
    """Yield a long list of chunks in parts."""
    for start in range(0, len(chunks), PART_CHUNKS):
        yield b"".join(bytes.fromhex(cid) for cid in chunks[start : start + PART_CHUNKS])


def chunks_in(part: bytes) -> list[str]:
    """Return the chunks of one part."""
    return [part[at : at + HASH_BYTES].hex() for at in range(0, len(part), HASH_BYTES)]
