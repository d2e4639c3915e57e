"""System calls that fail or dawdle in a running process, injected with strace."""

import asyncio
import contextlib
import functools
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

ATTACH_WAIT_S = 10.0
SYNCS = ("fsync", "fdatasync")


class InjectionFailed(Exception):
    """strace could not attach to the process; the message holds what it said."""


class Injection:
    """Injected faults in one process; `count()` of them were delivered so far."""

    def __init__(self, record: Path) -> None:
        self._record = record

    def count(self) -> int:
        """Return how many system calls were tampered with until now."""
        return sum(b"(INJECTED)" in line or b"(DELAYED)" in line for line in self._record.read_bytes().splitlines())


@asynccontextmanager
async def failing_syscalls(
    pid: int,
    syscalls: Sequence[str] = SYNCS,
    *,
    error: str | None = "EIO",
    delay_us: int | None = None,
    when: str = "1+",
) -> AsyncIterator[Injection]:
    """Make `syscalls` in all threads of process `pid` fail with `error` (or first wait `delay_us`).

    `when` is strace's own: "3" the third call, "3+" from the third on, "1+2" every second one; calls are
    counted per thread. With `error` the call itself is not made. Raises `InjectionFailed` if strace cannot
    attach. When the block ends, strace lets go of the process.
    """
    faults = [f"error={error}"] if error else []
    faults += [f"delay_enter={delay_us}"] if delay_us else []
    if not faults:
        raise ValueError("name an error, a delay, or both")
    names = ",".join(syscalls)
    with tempfile.NamedTemporaryFile(prefix="forge-strace-") as record:
        strace = await asyncio.create_subprocess_exec(
            *("strace", "-f", "-p", str(pid), "-o", record.name),
            *("-e", f"trace={names}", "-e", f"inject={names}:{':'.join(faults)}:when={when}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            await _attached(strace, pid)
            yield Injection(Path(record.name))
        finally:
            with contextlib.suppress(ProcessLookupError):
                strace.send_signal(signal.SIGINT)
            await strace.communicate()


async def _attached(strace: asyncio.subprocess.Process, pid: int) -> None:
    assert strace.stderr is not None
    said = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ATTACH_WAIT_S):
            while line := await strace.stderr.readline():
                said += line
                if b"attached" in line:
                    return
    raise InjectionFailed(f"strace cannot attach to process {pid}: {said.decode(errors='replace').strip()}")


@functools.cache
def unavailable() -> str | None:
    """Return why system calls cannot be made to fail here, or None after strace really attached."""
    if shutil.which("strace") is None:
        return "needs strace (Debian: apt-get install strace)"
    target = subprocess.Popen(["sleep", "60"])
    strace = subprocess.Popen(["strace", "-f", "-p", str(target.pid)], stderr=subprocess.PIPE)
    try:
        assert strace.stderr is not None
        said = strace.stderr.readline().decode(errors="replace").strip()
        return None if "attached" in said else f"strace may not attach to processes here: {said}"
    finally:
        for process in (strace, target):
            process.terminate()
            process.communicate()
