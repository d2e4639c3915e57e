"""Texts as vectors of hashed character and word n-grams: what shares spelling lies close together."""

import math
import re
import unicodedata

import numpy
from numpy.typing import NDArray

MODEL = "forge-text-ngram-v1"
DIMENSION = 384
BYTES_READ = 1 << 20
CHARACTERS_READ = 1 << 20
NORMALISED_AT_ONCE = 512
CHARACTER_GRAMS = (3, 4, 5)
WORD_GRAMS = (1, 2)
TABLE_BITS = 18
SORTED_MAX = 1 << 17

_Hashes = NDArray[numpy.uint64]
_Counts = NDArray[numpy.int64]
_GAP = re.compile(r"\s+")
_NOT_WORD = re.compile(r"\W+")
_MULTIPLIER = numpy.uint64(0x9E3779B97F4A7C15)
_WORD_SPACE = numpy.uint64(ord(" "))


def embed_text(content: bytes) -> NDArray[numpy.float32]:
    """Return the unit vector of `DIMENSION` numbers of a text, the same on every machine.

    Bytes that are not UTF-8 count as replacement characters; case, width and ligatures do not count, and any
    white space is one space. Only the first `BYTES_READ` bytes count. Nothing but white space has a vector of
    its own, which all such texts share.
    """
    text = _folded(content[:BYTES_READ].decode(errors="replace"))
    characters = _codes(f" {_GAP.sub(' ', text).strip()} ")
    words = _word_hashes(_codes(_NOT_WORD.sub(" ", text).strip()))
    vector = numpy.zeros(DIMENSION)
    for number, (hashes, length) in enumerate(
        [(characters, n) for n in CHARACTER_GRAMS] + [(words, n) for n in WORD_GRAMS], start=1
    ):
        vector += _folded_counts(_grams(hashes, length, seed=number))
    return _unit(vector)


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    # Normalising a long run of combining marks takes time in its square, so a run is cut.
    step = NORMALISED_AT_ONCE
    pieces = (unicodedata.normalize("NFKC", text[n : n + step]) for n in range(0, len(text), step))
    return "".join(pieces).casefold()[:CHARACTERS_READ]


def _codes(text: str) -> _Hashes:
    return numpy.frombuffer(text.encode("utf-32-le", "replace"), "<u4").astype(numpy.uint64)


def _mixed(numbers: _Hashes) -> _Hashes:
    """Spread every bit of each number over all of its bits."""
    mixed: _Hashes = numbers ^ (numbers >> numpy.uint64(30))
    mixed = mixed * numpy.uint64(0xBF58476D1CE4E5B9)
    mixed = mixed ^ (mixed >> numpy.uint64(27))
    mixed = mixed * numpy.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> numpy.uint64(31))
    return mixed


def _word_hashes(codes: _Hashes) -> _Hashes:
    """Return a hash of each word of a text whose words are one space apart."""
    if not codes.size:
        return codes
    spaces = codes == _WORD_SPACE
    starts = numpy.concatenate(([0], numpy.flatnonzero(spaces) + 1))
    places = numpy.arange(codes.size) - numpy.repeat(starts, numpy.diff(numpy.append(starts, codes.size)))
    weighted = _mixed(codes + _MULTIPLIER * places.astype(numpy.uint64))
    weighted[spaces] = 0
    hashes: _Hashes = numpy.add.reduceat(weighted, starts)
    return hashes


def _grams(hashes: _Hashes, length: int, *, seed: int) -> _Hashes:
    """Return a hash of every `length` neighbours, in order."""
    count = hashes.size - length + 1
    if count < 1:
        return hashes[:0]
    grams = numpy.full(count, seed, numpy.uint64)
    for n in range(length):
        grams = _mixed(grams * _MULTIPLIER + hashes[n : n + count])
    return grams


def _folded_counts(grams: _Hashes) -> NDArray[numpy.float64]:
    """Return a vector in which each kind of gram adds or subtracts the root of its count at one place."""
    present, counts = _counted((grams >> numpy.uint64(64 - TABLE_BITS)).astype(numpy.uint32))
    spread = _mixed(present.astype(numpy.uint64) + _MULTIPLIER)
    signs = 1.0 - 2.0 * (spread & numpy.uint64(1)).astype(numpy.float64)
    places = ((spread >> numpy.uint64(1)) % numpy.uint64(DIMENSION)).astype(numpy.int64)
    # Roots and sums in order are exact everywhere; logarithms differ in the last bit between machines.
    weights = signs * numpy.sqrt(counts)
    return numpy.bincount(places, weights, DIMENSION).astype(numpy.float64)


def _counted(places: NDArray[numpy.uint32]) -> tuple[_Counts, _Counts]:
    """Return which places occur, in order, and how often each; sorting a few is faster than a table of all."""
    if places.size < SORTED_MAX:
        ordered = numpy.sort(places)
        starts = numpy.flatnonzero(numpy.diff(ordered, prepend=numpy.uint32(1 << TABLE_BITS)))
        return ordered[starts].astype(numpy.int64), numpy.diff(starts, append=ordered.size)
    table = numpy.bincount(places, minlength=1 << TABLE_BITS)
    present = numpy.flatnonzero(table)
    return present, table[present]


def _unit(vector: NDArray[numpy.float64]) -> NDArray[numpy.float32]:
    length = math.sqrt(math.fsum(vector * vector))
    if not length:
        vector = numpy.zeros(DIMENSION)
        vector[0] = length = 1.0
    return (vector / length).astype(numpy.float32)
