"""Generations of a projection as they lie in the archive: keys, the manifest, and the pointer to the current one.

<prefix>/gen/<projection>/<epoch>.<index>/manifest.json    one generation: which chunks its file is made of
<prefix>/gen/<projection>/current.json                     the newest one that counts
<prefix>/pages/<aa>/<cid>                                  a chunk, a patch, or a part of a list of chunks, by zstd
<prefix>/clear/pages/<aa>/<cid>                            the same, of what is not encrypted where others are

A chunk is `chunk_bytes` of the file (the last one less) under the BLAKE3 of its plain bytes, so that what did not
change is stored once. A part is the raw hashes of up to `PART_CHUNKS` chunks, stored the same way.

A patch is some pages of the file, stored the same way (`projectors/generations/patches.py`). A manifest of format 2
names patches, later ones counting more, and below them chunks that are partly out of date: its file is these chunks,
the pages of each patch written over them, and all that cut to `size_bytes`. A chunk below patches may hold less than
its place, or more than is left of the file. To a Forge that knows no patches such a manifest names no chunks at all,
and it refuses it.
"""

import re
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from schemas.encryption import CLEAR, Areas, is_encrypted
from schemas.facts import Instant
from schemas.ids import Cid, InvalidId, Position, escape, parse_cid, unescape

FOLDER = "gen/"
PAGES = "pages/"
CLEAR_PAGES = f"{CLEAR}{PAGES}"
CHUNK_BYTES_MIN = 4 << 10
CHUNK_BYTES_MAX = 4 << 20  # what readers make room for
PART_CHUNKS = 2048  # hashes of one part: 64 KiB
CHUNKS_IN_MANIFEST_MAX = 512  # more are in parts
PARTS_MAX = 1 << 14  # 2 TiB in chunks of 64 KiB
PATCH_BYTES = 1 << 20  # of pages in one patch
PATCHES_MAX = 512
FORMAT_PATCHED = 2  # the newest that is known
_MANIFEST = re.compile(r"gen/(?P<projection>[a-z]+(/[a-z0-9_-]+)?)/(?P<position>[0-9]+\.[0-9]+)/manifest\.json")


def projection_token(projection: str) -> str:
    """Return a projection's name as the path of its generations: `doc/Notes` is `doc/_4eotes`; raise `InvalidId`."""
    domain, slash, rest = projection.partition("/")
    if not re.fullmatch(r"[a-z]+", domain) or (slash and not rest):
        raise InvalidId(f"not the name of a projection: {projection[:140]!r}")
    return f"{domain}/{escape(rest)}" if rest else domain


@dataclass(frozen=True, slots=True)
class GenerationKey:
    """The key of the manifest of one generation, below the prefix."""

    projection: str
    position: Position

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a key; raise `InvalidId`."""
        if not (found := _MANIFEST.fullmatch(text)):
            raise InvalidId(f"not the key of a generation: {text[:200]!r}")
        domain, slash, rest = found["projection"].partition("/")
        return cls(f"{domain}/{unescape(rest)}" if slash else domain, Position.parse(found["position"]))

    def __str__(self) -> str:
        return f"{generations_of(self.projection)}{self.position}/manifest.json"


def generations_of(projection: str) -> str:
    """Return what the keys of all generations of a projection begin with."""
    return f"{FOLDER}{projection_token(projection)}/"


def current_key(projection: str) -> str:
    """Return the key of the pointer of a projection."""
    return f"{generations_of(projection)}current.json"


def page_key(cid: str, pages: str = PAGES) -> str:
    """Return the key of a chunk or part below `pages`; raise `InvalidId` for what is no content hash."""
    cid = parse_cid(cid)
    return f"{pages}{cid[:2]}/{cid}"


def pages_of(projection: str, areas: Areas) -> str:
    """Return below which folder the chunks of a projection lie, if `areas` are what is encrypted."""
    return PAGES if is_encrypted(current_key(projection), areas) else CLEAR_PAGES


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Manifest(_Stored):
    """One generation: a SQLite file that holds a projection exactly as it was at `position`."""

    format: int = Field(1, ge=1, description="2: has patches")
    projection: str = Field(description="its name, such as `doc/notes`")
    partition: str = Field(description="the log subject that it folds")
    position: str = Field(description="`epoch.index`; the next record has the index that follows")
    hash: str = Field(description="hash of the chain at the position")
    sequence: int = Field(description="where the log kept that record, a hint")
    time: Instant = Field(description="when the newest event in it was written")
    version: str = Field(description="version of the tables and of the fold that made them")
    size_bytes: int = Field(gt=0)
    page_size: int = Field(gt=0, le=1 << 16)
    file: Cid = Field(description="BLAKE3 of the whole file")
    digest: str | None = Field(description="digest of the content; null: the file is too large to tell it each time")
    chunk_bytes: int = Field(ge=CHUNK_BYTES_MIN, le=CHUNK_BYTES_MAX)
    pages: Literal["pages/", "clear/pages/"] = Field("pages/", description="below which folder its chunks lie")
    chunks: list[Cid] = Field(default=[], max_length=CHUNKS_IN_MANIFEST_MAX, description="in the order of the file")
    parts: list[Cid] = Field(default=[], max_length=PARTS_MAX, description="of the list of chunks, if it is long")
    base: list[Cid] = Field(default=[], max_length=PARTS_MAX, description="parts of the list of chunks below patches")
    patches: list[Cid] = Field(default=[], max_length=PATCHES_MAX, description="later ones count more")
    previous: str | None = Field(None, description="position of the generation before")
    epoch: int = Field(description="of the writer")
    node: str = Field(description="of the writer")
    created_at: Instant

    @property
    def at(self) -> Position:
        """The position as a value."""
        return Position.parse(self.position)

    @property
    def key(self) -> GenerationKey:
        """Where this manifest lies."""
        return GenerationKey(self.projection, self.at)

    @property
    def chunk_count(self) -> int:
        """How many chunks the file has."""
        return -(-self.size_bytes // self.chunk_bytes)

    @property
    def beside_chunks(self) -> list[str]:
        """What it names besides chunks: parts and patches."""
        return [*self.parts, *self.base, *self.patches]


class CurrentGeneration(_Stored):
    """The pointer of a projection: its newest generation that counts. Moves forward only."""

    projection: str
    position: str = Field(description="of the generation")
    manifest: Cid = Field(description="BLAKE3 of the manifest's bytes")
    size_bytes: int
    verified: bool = Field(description="whether it was restored and compared before the pointer moved")
    verified_position: str | None = Field(None, description="of the newest generation that was")
    time: Instant = Field(description="when the newest event in it was written")
    moved_at: Instant
    node: str

    @property
    def at(self) -> Position:
        """The position as a value."""
        return Position.parse(self.position)
