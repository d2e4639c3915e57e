"""What counts as a vector in a worker's answer."""

import json
import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.predict_answer import (
    DIMENSION_MAX,
    InvalidAnswer,
    Prediction,
    cut_reason,
    parse_answer,
    parse_retry_after,
)

float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["embedding", "vector", "data", "model"]), inner),
)


@given(st.lists(float32, min_size=1, max_size=50), st.sampled_from(["", "embedding", "vector", "data"]))
def test_every_float32_vector_comes_through_bit_for_bit(numbers: list[float], key: str) -> None:
    """G33."""
    answer = parse_answer(json.dumps({key: numbers} if key else numbers).encode())

    assert answer == Prediction(struct.pack(f"<{len(numbers)}f", *numbers), len(numbers), "default")


@given(json_values.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_any_answer_gives_a_finite_vector_or_a_reason(body: bytes) -> None:
    try:
        answer = parse_answer(body)
    except InvalidAnswer:
        return
    numbers = struct.unpack(f"<{answer.dimension}f", answer.vector)
    assert numbers
    assert all(abs(number) < float("inf") for number in numbers)
    assert 0 < len(answer.model) <= 200


@pytest.mark.parametrize(
    ("body", "numbers", "model"),
    [
        (b"[1, -0.5]", [1, -0.5], "default"),
        (b' {"embedding": [1], "vector": [2], "data": [3]} ', [1], "default"),
        (b'{"embedding": "no", "vector": [[2]], "data": [3], "model": "m/1"}', [3], "m/1"),
        (b'{"embedding": null, "vector": [2], "model": null}', [2], "default"),
        (b"[1e-7, 1e+21, 1e-60]", [1e-7, 1e21, 0], "default"),
    ],
)
def test_the_first_key_that_holds_a_vector_counts(body: bytes, numbers: list[float], model: str) -> None:
    """Spec 3.2."""
    assert parse_answer(body) == Prediction(struct.pack(f"<{len(numbers)}f", *numbers), len(numbers), model)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not valid JSON"),
        (b"[1,]", "not valid JSON"),
        (b"[1] [2]", "not valid JSON"),
        (b"[NaN]", "not valid JSON"),
        (b"[-Infinity]", "not valid JSON"),
        (b"[\xff]", "not valid JSON"),
        (b"[" * 200_000, "recursion"),
        (b'{"a":' * 200_000, "recursion"),
        (b"[" + b"9" * 10_000 + b"]", "not valid JSON"),
        (b"7", "neither"),
        (b"null", "neither"),
        (b"{}", "none of the keys"),
        (b'{"embeddings": [1]}', "none of the keys"),
        (b"[]", "non-empty"),
        (b'{"vector": {}}', "vector: a vector is a non-empty"),
        (b"[true]", "only numbers"),
        (b'["1"]', "only numbers"),
        (b"[[1, 2]]", "only numbers"),
        (b"[1, null]", "only numbers"),
        (b"[1e39]", "too large for float32"),
        (b"[1e999]", "too large for float32"),
        (b"[3.4028236e38]", "too large for float32"),
        (b"[" + b"9" * 400 + b"]", "too large for float32"),
        (b"[" + b"1," * DIMENSION_MAX + b"1]", "at most 65536"),
        (b'{"vector": [1], "model": 5}', "printable"),
        (b'{"vector": [1], "model": " "}', "printable"),
        (b'{"vector": [1], "model": "a\\u001b[2J"}', "printable"),
        (b'{"vector": [1], "model": "' + b"m" * 201 + b'"}', "at most 200"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_vector_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    """G33."""
    with pytest.raises(InvalidAnswer, match=reason):
        parse_answer(body)


def test_a_reason_of_1205_characters_is_cut_to_exactly_1000() -> None:
    """Spec section 8, assertion 14."""
    assert cut_reason("x" * 1205) == "x" * 1000


@given(st.text(max_size=1500))
def test_a_reason_is_storable_and_harmless(text: str) -> None:
    reason = cut_reason(text)

    assert len(reason.encode()) <= 1000
    assert all(c.isprintable() or c in "\n\ufffd" for c in reason)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ("7", 7),
        (" 0 ", 0),
        ("999999999", 3600),
        ("9" * 5000, 3600),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("\u0665", None),
        ("Fri, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, wait_s: float | None) -> None:
    assert parse_retry_after(header, datetime(2026, 11, 20, 12, tzinfo=UTC)) == wait_s
