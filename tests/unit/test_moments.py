"""Moments as requests name them."""

import pytest

from api.at import parse_moment
from schemas.ids import Position
from schemas.problems import Refusal


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1.42", Position(1, 42)),
        (" 1.0 ", Position(1, 0)),
        ("2026-01-31T12:30:00Z", "2026-01-31T12:30:00.000000Z"),
        ("2026-01-31T12:30", "2026-01-31T12:30:00.000000Z"),
        ("2026-01-31T12:30:00.5+01:00", "2026-01-31T11:30:00.500000Z"),
        ("2026-01-31T12:30:00 01:00", "2026-01-31T11:30:00.000000Z"),
        ("2026-01-31", "2026-01-31T00:00:00.000000Z"),
        ("2026-01-31 12:30", "2026-01-31T12:30:00.000000Z"),
    ],
)
def test_a_position_or_a_time_is_read(text: str, moment: Position | str) -> None:
    """Deliverable 8 of documents; a plus that nobody escaped has become a space."""
    assert parse_moment(text, "at") == moment


@pytest.mark.parametrize(
    "text", ["", "1", "1.", "yesterday", "12:30", "2026-13-01", "9999-12-31T23:59:59-23:59", "x" * 99]
)
def test_anything_else_is_refused_by_name(text: str) -> None:
    """400 that says what a moment looks like."""
    with pytest.raises(Refusal, match="at is a position such as") as raised:
        parse_moment(text, "at")
    assert (raised.value.problem.status, raised.value.problem.field) == (400, "at")
