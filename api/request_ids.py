"""The ids of requests that bring none: unlike those of any other process, and quick to make. They are no secret."""

from itertools import count

from ulid import ULID

_START = str(ULID())[10:]  # 80 random bits
_numbers = count(1)


def new_request_id() -> str:
    """Return an id of 26 letters and digits."""
    return f"{_START}{next(_numbers):010d}"
