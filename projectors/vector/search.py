"""The stored vectors most like a given one, by exact cosine similarity."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import apsw
import numpy
from numpy.typing import NDArray

HITS_MAX = 1000
CHUNK_ROWS = 512
CHUNK_BYTES = 1 << 20  # what stays in the processor's cache: 16 MiB took over three times as long
SCORE_DECIMALS = 9

Ranked = list[tuple[float, str]]


class WrongDimension(ValueError):
    """The query has not as many numbers as the stored vectors of that kind and model."""

    def __init__(self, *, query: int, stored: int) -> None:
        super().__init__(f"the query has {query} numbers, the stored vectors have {stored}")
        self.query = query
        self.stored = stored


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The best (file hash, score) pairs, best first, and how many vectors were compared."""

    hits: tuple[tuple[str, float], ...]
    scanned: int


def search(
    db: apsw.Connection,
    *,
    kind: str,
    query: NDArray[numpy.float32] | NDArray[numpy.float64],
    model: str,
    k: int,
    exclude: str | None = None,
) -> SearchResult:
    """Compare `query`, one-dimensional, with every vector of `kind` and `model` but `exclude`'s.

    Scores are cosines, from -1 to 1, rounded to `SCORE_DECIMALS`; equal scores come in order of hash. A vector
    of zeros has no direction, so its score is 0. Memory is a few `CHUNK_BYTES`, however many rows there are.
    Raise `WrongDimension`, or `ValueError` for a `k` outside 1..`HITS_MAX` or a query that is not finite.
    """
    if not 1 <= k <= HITS_MAX:
        raise ValueError(f"k must be from 1 to {HITS_MAX}, not {k}")
    if query.ndim != 1 or not query.size or not numpy.isfinite(query).all():
        raise ValueError("the query must be a list of finite numbers, at least one")
    unit = _unit(query)
    best: Ranked = []
    scanned = 0
    for hashes, vectors in _chunks(db, kind, model, query.size, exclude):
        best = _best([*best, *_top(_cosines(vectors, unit), hashes, k)], k)
        scanned += len(hashes)
    if not scanned:
        _check_dimension(db, kind, model, query.size)
    return SearchResult(tuple((file_hash, score) for score, file_hash in best), scanned)


def _chunks(
    db: apsw.Connection, kind: str, model: str, dimension: int, exclude: str | None
) -> Iterator[tuple[list[str], NDArray[numpy.float32]]]:
    # Read the table in its own order: following the index by hash would jump about in the file.
    statement = """SELECT file_hash, vector FROM embedding NOT INDEXED
                   WHERE kind = ? AND model = ? AND dimension = ? AND file_hash IS NOT ?"""
    size = max(1, min(CHUNK_ROWS, CHUNK_BYTES // (4 * dimension)))
    with closing(db.cursor()) as cursor:
        found = cursor.execute(statement, (kind, model, dimension, exclude))
        while rows := list(islice(found, size)):
            hashes, vectors = zip(*rows, strict=True)
            packed = numpy.frombuffer(b"".join(vectors), "<f4")
            yield list(hashes), packed.reshape(len(rows), dimension)


def _unit(query: NDArray[numpy.float32] | NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    wide = query.astype(numpy.float64)
    largest = numpy.abs(wide).max()
    if largest == 0:
        return wide
    wide /= largest  # so that squares neither overflow nor vanish
    return wide / numpy.sqrt(wide @ wide)


def _cosines(vectors: NDArray[numpy.float32], unit: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    # The square of every float32 is a finite float64, and not zero unless the number is.
    wide = vectors.astype(numpy.float64)
    lengths = numpy.sqrt(numpy.einsum("ij,ij->i", wide, wide))
    lengths[lengths == 0] = 1
    # A matrix product may round equal rows differently; so many decimals are not worth an order.
    scores: NDArray[numpy.float64] = numpy.round((wide @ unit) / lengths, SCORE_DECIMALS)
    return scores.clip(-1, 1)


def _top(scores: NDArray[numpy.float64], hashes: list[str], k: int) -> Ranked:
    """Return the entries that can be among the best `k`, all ties of the last one included."""
    if len(hashes) > k:
        least = -numpy.partition(-scores, k - 1)[k - 1]
        candidates = numpy.flatnonzero(scores >= least)
    else:
        candidates = numpy.arange(len(hashes))
    return [(float(scores[n]), hashes[n]) for n in candidates]


def _best(entries: Ranked, k: int) -> Ranked:
    return sorted(entries, key=lambda entry: (-entry[0], entry[1]))[:k]


def _check_dimension(db: apsw.Connection, kind: str, model: str, dimension: int) -> None:
    statement = "SELECT dimension FROM embedding WHERE kind = ? AND model = ? AND dimension <> ? LIMIT 1"
    for (stored,) in db.execute(statement, (kind, model, dimension)):
        raise WrongDimension(query=dimension, stored=int(stored))
