"""Search finds exactly the most similar vectors, in one order, within its bounds."""

import math
import struct
import tracemalloc

import apsw
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projectors.vector import search as searching
from projectors.vector.search import HITS_MAX, WrongDimension, search

TABLE = """CREATE TABLE embedding (kind TEXT NOT NULL, file_hash TEXT NOT NULL, model TEXT NOT NULL,
    dimension INTEGER NOT NULL, vector BLOB NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
    PRIMARY KEY (kind, file_hash))"""
DIMENSION = 3
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
small = st.integers(-2, 2).map(float)
vectors = st.lists(st.one_of(numbers, small), min_size=DIMENSION, max_size=DIMENSION)
libraries = st.lists(vectors, max_size=30)


def stored(library: list[list[float]], *, kind: str = "text", model: str = "m") -> apsw.Connection:
    db = apsw.Connection(":memory:")
    db.execute(TABLE)
    add(db, {f"{n * 7919 % 1000:064x}": vector for n, vector in enumerate(library)}, kind=kind, model=model)
    return db


def add(db: apsw.Connection, library: dict[str, list[float]], *, kind: str = "text", model: str = "m") -> None:
    with db:
        for file_hash, vector in library.items():
            packed = struct.pack(f"<{len(vector)}f", *vector)
            row = (kind, file_hash, model, len(vector), packed, "", "")
            db.execute("INSERT INTO embedding VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def cosine(a: list[float], b: list[float]) -> float:
    lengths = math.hypot(*a) * math.hypot(*b)
    if not lengths:
        return 0.0
    return math.fsum((x / math.hypot(*a)) * (y / math.hypot(*b)) for x, y in zip(a, b, strict=True))


@given(libraries, vectors, st.integers(1, 12), st.integers(1, 7))
def test_the_hits_are_those_of_brute_force(library: list[list[float]], query: list[float], k: int, chunk: int) -> None:
    db = stored(library)
    scores = {f"{n * 7919 % 1000:064x}": cosine(query, vector) for n, vector in enumerate(library)}

    with pytest.MonkeyPatch.context() as bounds:
        bounds.setattr(searching, "CHUNK_ROWS", chunk)
        found = search(db, kind="text", query=numpy.array(query), model="m", k=k)

    assert found.scanned == len(library)
    assert len(found.hits) == min(k, len(library))
    assert [score for _, score in found.hits] == pytest.approx(sorted(scores.values(), reverse=True)[:k], abs=2e-9)
    assert [score for _, score in found.hits] == pytest.approx([scores[h] for h, _ in found.hits], abs=2e-9)
    assert list(found.hits) == sorted(found.hits, key=lambda hit: (-hit[1], hit[0]))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_equal_scores_come_in_order_of_hash_wherever_the_chunks_end(count: int, k: int, chunk: int) -> None:
    db = stored([[0.1, 0.7, -0.3]] * count)
    with pytest.MonkeyPatch.context() as bounds:
        bounds.setattr(searching, "CHUNK_ROWS", chunk)
        found = search(db, kind="text", query=numpy.array([1.0, 2.0, 3.0]), model="m", k=k)
    expected = sorted(f"{n * 7919 % 1000:064x}" for n in range(count))[:k]
    assert [file_hash for file_hash, _ in found.hits] == expected


def test_other_kinds_other_models_and_the_excluded_file_are_not_compared() -> None:
    db = stored([[1.0, 0.0]])
    add(db, {"b" * 64: [1.0, 0.0]}, kind="image")
    add(db, {"c" * 64: [1.0, 0.0]}, model="older")
    add(db, {"d" * 64: [1.0, 0.0]})
    found = search(db, kind="text", query=numpy.array([1.0, 0.0]), model="m", k=5, exclude="d" * 64)
    assert found == searching.SearchResult((("0" * 64, 1.0),), 1)


def test_vectors_of_zeros_score_zero() -> None:
    db = stored([[0.0, 0.0], [-1.0, 0.0]])
    found = search(db, kind="text", query=numpy.array([2.0, 0.0]), model="m", k=5)
    assert [score for _, score in found.hits] == [0.0, -1.0]
    found = search(db, kind="text", query=numpy.array([0.0, 0.0]), model="m", k=5)
    assert [score for _, score in found.hits] == [0.0, 0.0]


def test_very_large_and_very_small_numbers_keep_their_direction() -> None:
    db = stored([[3e38, 3e38], [1e-45, 0.0]])
    found = search(db, kind="text", query=numpy.array([1e300, 1e300]), model="m", k=5)
    assert [score for _, score in found.hits] == pytest.approx([1.0, math.sqrt(0.5)])


def test_a_query_of_the_wrong_dimension_is_refused() -> None:
    with pytest.raises(WrongDimension, match="has 3 numbers, the stored vectors have 2"):
        search(stored([[1.0, 0.0]]), kind="text", query=numpy.ones(3), model="m", k=5)


def test_nothing_stored_gives_no_hits() -> None:
    found = search(stored([]), kind="text", query=numpy.ones(3), model="m", k=5)
    assert found == searching.SearchResult((), 0)


@pytest.mark.parametrize("k", [0, -1, HITS_MAX + 1])
def test_k_is_bounded(k: int) -> None:
    """PR7."""
    with pytest.raises(ValueError, match=f"k must be from 1 to {HITS_MAX}"):
        search(stored([]), kind="text", query=numpy.ones(3), model="m", k=k)


@pytest.mark.parametrize("query", [[], [math.nan, 1.0], [math.inf], [[1.0]]])
def test_a_query_must_be_finite_numbers(query: list[float]) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        search(stored([]), kind="text", query=numpy.array(query), model="m", k=1)


def test_memory_does_not_grow_with_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """PR7: a scan holds a few chunks, here of 64 KiB, of a library of 8 MiB."""
    monkeypatch.setattr(searching, "CHUNK_BYTES", 64 << 10)
    dimension = 1024
    db = stored([])
    add(db, {f"{n:064x}": [float(n % 7)] * dimension for n in range(2048)})
    tracemalloc.start()
    search(db, kind="text", query=numpy.ones(dimension), model="m", k=10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
