"""What `forge pub` makes of standard input."""

import io
from typing import Any

import pytest

from forge.cli.messages import _payload


@pytest.mark.parametrize(
    ("raw", "payload"),
    [(b"hi\n", {"text": "hi\n"}), (b"", {"text": ""}), (b"\xff\x00", {"payload": b"\xff\x00"})],
)
def test_it_is_text_if_it_can_be(monkeypatch: pytest.MonkeyPatch, raw: bytes, payload: dict[str, Any]) -> None:
    """P3.2: as TEXT would be, so that SQL finds it as such."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
    assert _payload("-", None, None) == payload
