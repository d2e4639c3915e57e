"""Texts that share spelling get vectors close together, and every text gets a valid one."""

import os
import random
import subprocess
import sys

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.builtin import text as model
from workers.builtin.text import BYTES_READ, DIMENSION, embed_text

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("a", "e", "io", "ou") for c in ("n", "rk", "st", "lla", "m")]


def written(chance: random.Random, words: int) -> list[str]:
    vocabulary = chance.sample(WORDS, 80)
    return [chance.choice(vocabulary) for _ in range(words)]


def likeness(a: str | bytes, b: str | bytes) -> float:
    left, right = (embed_text(text.encode() if isinstance(text, str) else text) for text in (a, b))
    return float(left @ right)


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode(errors="replace"))))
def test_any_bytes_give_a_unit_vector(content: bytes) -> None:
    vector = embed_text(content)
    assert vector.dtype == numpy.float32
    assert vector.shape == (DIMENSION,)
    assert numpy.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("content", [b"", b" ", b"\n\t \r\n", " \u3000\u2003".encode()])
def test_nothing_but_white_space_has_one_vector(content: bytes) -> None:
    assert (embed_text(content) == embed_text(b"")).all()
    assert abs(likeness(content, "words")) < 0.3


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Grüße aus KÖLN", "gru\u0308ße aus köln"),
        ("\uff21\uff22\uff23 of the \ufb01rst", "abc of the first"),
        ("one  two\n\nthree ", "one two three"),
        ("STRASSE", "straße"),
    ],
)
def test_case_width_composition_and_spacing_do_not_count(a: str, b: str) -> None:
    assert (embed_text(a.encode()) == embed_text(b.encode())).all()


def test_near_duplicates_are_much_closer_than_different_texts() -> None:
    chance = random.Random(7)
    texts = [written(chance, chance.randrange(60, 1500)) for _ in range(60)]
    near, different = [], []
    for n, words in enumerate(texts):
        edited = [chance.choice(WORDS) if chance.random() < 0.05 else word for word in words]
        near.append(likeness(" ".join(words), " ".join(edited)))
        different.append(likeness(" ".join(words), " ".join(texts[n - 1])))
    assert min(near) > 0.85
    assert max(different) < 0.75


def test_a_text_is_most_like_its_own_shortened_copy() -> None:
    chance = random.Random(8)
    texts = [" ".join(written(chance, 300)) for _ in range(80)]
    library = numpy.array([embed_text(text.encode()) for text in texts])
    shortened = numpy.array([embed_text(text[: len(text) * 3 // 4].encode()) for text in texts])
    assert ((shortened @ library.T).argmax(axis=1) == numpy.arange(len(texts))).all()


def test_both_ways_of_counting_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    content = " ".join(written(random.Random(9), 5000)).encode()
    by_sorting = embed_text(content)
    monkeypatch.setattr(model, "SORTED_MAX", 0)
    assert (embed_text(content) == by_sorting).all()
    assert (embed_text(b"") == embed_text(b" ")).all()


def test_the_order_of_words_counts() -> None:
    assert likeness("dog bites man in the park", "man bites dog in the park") < 0.999


def test_only_the_beginning_of_a_large_text_is_read() -> None:
    """PR7."""
    head = (b"some words " * (BYTES_READ // 11 + 1))[:BYTES_READ]
    assert (embed_text(head) == embed_text(head + b"and others" * 1000)).all()


@pytest.mark.parametrize("unit", ["\u0315\u0300", "\ufdfa", "a\u0328\u0323\u0301", "\ud7ff"])
def test_text_made_to_be_slow_to_normalise_is_embedded(unit: str) -> None:
    """PR7: normalised in one piece, the first would take longer than the time limit of a test."""
    content = (unit * BYTES_READ).encode()[: BYTES_READ + 1]
    assert numpy.isfinite(embed_text(content)).all()


def test_the_same_bytes_give_the_same_vector_in_every_process() -> None:
    """A changed vector under an unchanged model name would spoil every stored one."""
    program = (
        "from blake3 import blake3; from workers.builtin.text import embed_text;"
        "vector = embed_text('Déjà vu: the quick brown fox. 狐 🦊'.encode());"
        "print(blake3(vector.astype('<f4').tobytes()).hexdigest())"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert answers[0] == answers[1]
    assert answers[0] == "691beb1621c24ac98f314f090311c676e6a4daf2e3013d1b5bf9634cf89a8359"
