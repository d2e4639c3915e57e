"""The hash by which a watch tells whether a result changed."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from projectors.document.watches.result_hash import result_hash
from schemas.values import SqlValue

Result = tuple[list[str], list[tuple[SqlValue, ...]]]

VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.binary(max_size=8),
)
RESULTS = st.integers(1, 3).flatmap(
    lambda width: st.tuples(
        st.lists(st.text("ab", max_size=2), min_size=width, max_size=width),
        st.lists(st.tuples(*[VALUES] * width), max_size=4),
    )
)


def typed(result: Result) -> object:
    """Return what tells results apart: 1 and 1.0 are equal in Python."""
    columns, rows = result
    return columns, [[(type(value), repr(value)) for value in row] for row in rows]


@given(RESULTS, RESULTS)
def test_results_share_a_hash_exactly_when_they_are_the_same(one: Result, other: Result) -> None:
    """P2.9: columns, rows, order and types all count."""
    assert (result_hash(*one) == result_hash(*other)) == (typed(one) == typed(other))


def test_types_that_look_alike_differ() -> None:
    """P2.9: NULL, blob, float, text and integer differ, also where their text is the same."""
    alike = [None, b"1", 1.0, "1", 1, "", b"", 0, 0.0, "None", "NULL"]

    assert len({result_hash(["a"], [(value,)]) for value in alike}) == len(alike)


def test_values_do_not_run_into_each_other() -> None:
    """P2.9: where one text ends and the next begins is part of it, and so is the order of rows."""
    results = [[("ab", "c")], [("a", "bc")], [("abc", "")], [("c", "ab")], [("ab", "c"), ("ab", "c")]]

    assert len({result_hash(["x", "y"], rows) for rows in results}) == len(results)
    assert result_hash(["a"], [(1,), (2,)]) != result_hash(["a"], [(2,), (1,)])
    assert result_hash(["a"], []) != result_hash(["b"], []) != result_hash(["a", "b"], [])


def test_the_hash_is_the_same_in_every_process_and_version() -> None:
    """P2.9: clients may keep it. This value must never change."""
    rows: list[tuple[SqlValue, ...]] = [(None, 1, -2.5, "é", b"\x00\xff"), (2**63 - 1, "", b"", float("inf"), -1)]
    kept = "714b0297e57651ba47fb747a5a522ddd3fdb91bd127221249ec4e0dac86723cb"
    code = f"from projectors.document.watches.result_hash import result_hash; print(result_hash('abcde', {rows!r}))"
    elsewhere = subprocess.run(
        [sys.executable, "-c", "inf = float('inf')\n" + code], check=True, capture_output=True, text=True
    )

    assert result_hash("abcde", rows) == kept
    assert elsewhere.stdout.strip() == kept
