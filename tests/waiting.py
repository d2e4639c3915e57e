"""Waiting in tests: for a condition, with a bound that only a broken program reaches."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path


async def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    """Wait for `condition`; fail if it does not come true within a bound that only a broken one reaches."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)


def running(pid: int) -> bool:
    """Tell whether process `pid` runs; one that ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
