"""The record of a writer lease as others may have stored it."""

from datetime import timedelta

import pytest
from pydantic_core import to_json

from schemas.writer_lease import SCHEMA, LeaseRecord
from tests.lease_contenders import BEGIN

RECORD = {"schema": SCHEMA, "resource": "writer", "mode": "hard", "owner_id": "a:1", "lease_id": "x"}


@pytest.mark.parametrize("zones", [("", "Z"), ("Z", ""), ("", ""), ("+00:00", "Z")])
def test_times_without_a_zone_are_of_utc(zones: tuple[str, str]) -> None:
    """As the names of the fields say; else nobody could say how long it lasts."""
    issued, expires = (f"2026-11-28T00:00:{s}{zone}" for s, zone in zip(("00", "45"), zones, strict=True))

    record = LeaseRecord.parse(to_json(RECORD | {"issued_at_utc": issued, "expires_at_utc": expires}))

    assert record.duration_s == 45
    assert record.expires_at_utc - BEGIN == timedelta(seconds=45)
