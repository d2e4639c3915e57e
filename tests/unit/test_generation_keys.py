"""The keys of generations, and the values that lie there."""

from contextlib import suppress

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from projectors.generations.chunks import HASH_BYTES, chunks_in, pack, parts_of, unpack
from projectors.generations.errors import GenerationDamaged
from schemas.encryption import AREAS_DEFAULT, is_encrypted, parse_areas
from schemas.generation import PART_CHUNKS, GenerationKey, current_key, generations_of, page_key, pages_of
from schemas.ids import DB_ID_PATTERN, InvalidId, Position

NAMES = st.sampled_from(["control", "vector/queue", "vector/embeddings", "node/n-1/snapshot"]) | st.from_regex(
    DB_ID_PATTERN, fullmatch=True
).filter(lambda name: not name.endswith("\n")).map(lambda name: f"doc/{name[:60]}")
POSITIONS = st.builds(Position, st.integers(1, 99), st.integers(0, 10**12))


@given(NAMES, POSITIONS)
def test_a_key_is_read_back_as_what_it_names(name: str, position: Position) -> None:
    key = GenerationKey(name, position)
    assert GenerationKey.parse(str(key)) == key
    assert str(key).startswith(generations_of(name))
    assert current_key(name).startswith(generations_of(name))


@pytest.mark.parametrize(
    "text",
    [
        "gen/doc/notes/1.2/manifest.jsonx",
        "gen/doc/Notes/1.2/manifest.json",
        "gen/doc/notes/01.2/manifest.json",
        "gen/doc/a/b/1.2/manifest.json",
        "gen/doc/notes/current.json",
        "gen//1.2/manifest.json",
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidId):
        GenerationKey.parse(text)


@pytest.mark.parametrize("name", ["", "Doc/notes", "doc/", "../x"])
def test_what_is_no_projection_has_no_keys(name: str) -> None:
    with pytest.raises(InvalidId):
        generations_of(name)


def test_a_page_is_named_by_a_hash() -> None:
    assert page_key("AB" * 32) == f"pages/ab/{'ab' * 32}"
    with pytest.raises(InvalidId):
        page_key("../escape")


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_chunk_is_what_its_hash_says_or_refused(data: bytes, draw: st.DataObject) -> None:
    """K3.6: one flipped bit anywhere in what is stored is refused, or changes nothing."""
    cid, packed = blake3(data).hexdigest(), bytearray(pack(data))
    assert unpack(bytes(packed), cid, len(data)) == data
    bit = draw.draw(st.integers(0, len(packed) * 8 - 1))
    packed[bit // 8] ^= 1 << bit % 8
    with suppress(GenerationDamaged):
        assert unpack(bytes(packed), cid, len(data)) == data


def test_a_chunk_that_unpacks_to_more_than_its_size_is_refused_before_it_does() -> None:
    """PR7: a small object never becomes a large one in memory."""
    data = bytes(50 << 20)
    with pytest.raises(GenerationDamaged):
        unpack(pack(data), blake3(data).hexdigest(), 4096)


def test_a_long_list_of_chunks_is_cut_into_parts() -> None:
    cids = [blake3(str(n).encode()).hexdigest() for n in range(PART_CHUNKS * 2 + 1)]
    parts = list(parts_of(cids))
    assert [len(part) // HASH_BYTES for part in parts] == [PART_CHUNKS, PART_CHUNKS, 1]
    assert [cid for part in parts for cid in chunks_in(part, len(part) // HASH_BYTES)] == cids


@pytest.mark.parametrize(
    ("projection", "areas", "pages"),
    [
        ("doc/notes", "documents,control", "pages/"),
        ("snapshot/node-a", "snapshot", "pages/"),
        ("refs/node-a", AREAS_DEFAULT, "clear/pages/"),
        ("refs/node-a", "refs", "pages/"),
        ("doc/notes", "refs", "clear/pages/"),
    ],
)
def test_chunks_of_what_is_not_encrypted_lie_where_nothing_is(projection: str, areas: str, pages: str) -> None:
    """PR6: and those of what is encrypted lie nowhere else."""
    assert pages_of(projection, parse_areas(areas)) == pages
    assert is_encrypted(page_key("ab" * 32, pages), parse_areas(areas)) is (pages == "pages/")
