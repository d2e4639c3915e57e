"""The headers of an answer: what HTTP cannot carry is refused before it is written."""

import re
from functools import lru_cache

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE_BYTES = bytes(code for code in range(256) if code == 9 or (code >= 32 and code != 127))


class BrokenAnswer(RuntimeError):
    """The application sent an answer that HTTP cannot carry."""


def lowered(name: bytes, value: bytes) -> bytes:
    """Return the name of a header in lower case; raise `BrokenAnswer` if HTTP cannot carry name or value."""
    found = _lowered(name)
    if found is None or value.translate(None, _VALUE_BYTES):
        raise BrokenAnswer(f"header {name!r} holds characters that HTTP cannot carry")
    return found


@lru_cache(maxsize=256)
def _lowered(name: bytes) -> bytes | None:
    """Answers have few different names."""
    return name.lower() if _NAME.fullmatch(name) else None
