"""The messages that every contestant is given: who sent each when can be read from its payload."""

import re
import time

PAYLOAD_BYTES = 100
MARK = b"^"
"""Occurs once in each payload and nowhere else, so that deliveries can be counted without parsing them."""
STAMP = re.compile(rb"\^(\d{19}) (\d{9})")
BATCH = 100


def payload(number: int, due_s: float | None = None) -> str:
    """Return the payload of message `number`, which was due at `due_s` (a `time.perf_counter`), or is now."""
    at = time.perf_counter_ns() if due_s is None else int(due_s * 1e9)
    return f"^{at:019d} {number:09d} ".ljust(PAYLOAD_BYTES, "x")


def topics(number: int) -> list[str]:
    """Return so many topics."""
    return [f"bench/{one}" for one in range(number)]
