"""Processes that die or stall at random moments, the same moments again for the same seed."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

END_WAIT_S = 30.0
POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Kill:
    """One process was killed: its pid, and how many seconds after it was ready."""

    pid: int
    after_s: float


async def kill_at_random_moments(
    next_victim: Callable[[], Awaitable[int]],
    *,
    kills: int,
    seed: int | None = None,
    earliest_s: float = 0.0,
    latest_s: float = 1.0,
) -> list[Kill]:
    """Kill -9 `kills` times, each at a random moment between `earliest_s` and `latest_s` after readiness.

    `next_victim` is awaited before each kill: it restarts the process (or waits until a supervisor has),
    waits until it is ready, and returns its pid. Nothing is restarted after the last kill. The seed is
    printed; give it again to get the same moments. A victim that ended by itself raises `AssertionError`.
    """
    seed = fresh_seed() if seed is None else seed
    print(f"kill_at_random_moments: seed={seed}")
    moments = random.Random(seed)
    done: list[Kill] = []
    for _ in range(kills):
        pid = await next_victim()
        after_s = moments.uniform(earliest_s, latest_s)
        await asyncio.sleep(after_s)
        assert is_alive(pid), f"process {pid} ended by itself within {after_s:.3f} s, before kill {len(done) + 1}"
        await kill(pid)
        done.append(Kill(pid, after_s))
    return done


async def kill(pid: int) -> None:
    """Kill -9 one process and return when it is dead (perhaps not yet reaped by its parent)."""
    if pid <= 1 or pid == os.getpid():
        raise ValueError(f"will not kill process {pid}")
    born = _birth(pid)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + END_WAIT_S
    while is_alive(pid) and _birth(pid) == born:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} survived SIGKILL for {END_WAIT_S} s")
        await asyncio.sleep(POLL_S)


@contextmanager
def stalled(pid: int) -> Iterator[None]:
    """Stop process `pid` with SIGSTOP inside the block, as a long pause would, and let it go on after it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def is_alive(pid: int) -> bool:
    """Return whether process `pid` runs; one that is dead but not yet reaped does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def fresh_seed() -> int:
    """Return a new seed for a test run; print it, so that the run can be repeated."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return seed


def _birth(pid: int) -> str | None:
    fields = _stat(pid)
    return fields[19] if fields else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command name (state first), or none when there is no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
