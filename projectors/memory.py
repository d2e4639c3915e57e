"""Memory that was freed, given back to the operating system."""

import ctypes
from collections.abc import Callable
from functools import cache


def give_back_memory() -> None:
    """Give back what the C library keeps of freed memory; does nothing but with glibc. Call it in a thread.

    Connections to SQLite take and free much memory from many threads, and glibc keeps a share for each.
    """
    if trim := _trim():
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
        return trim
    except (OSError, AttributeError):
        return None
