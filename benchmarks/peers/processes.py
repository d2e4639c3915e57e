"""Processes of servers under load: starting them, and what they use."""

import asyncio
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
START_S = 30.0


class PeerMissing(Exception):
    """A program to compare with is not installed; the message says how to get it."""


class ProcessTree:
    """A process and everything that it started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def cpu_s(self) -> float:
        """Return the processor time used so far, in seconds."""
        return sum(_cpu_s(pid) for pid in self._pids())

    def first_cpu_s(self) -> float:
        """Return that of the process itself, without those that it started."""
        return _cpu_s(self.pid)

    def rss_mib(self) -> dict[str, float]:
        """Return the resident memory in MiB, by the name of the program."""
        sizes: dict[str, float] = {}
        for pid in self._pids():
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            sizes[name] = round(sizes.get(name, 0) + pages * PAGE_BYTES / (1 << 20), 1)
        return sizes

    def _pids(self) -> Iterator[int]:
        waiting = [self.pid]
        while waiting:
            pid = waiting.pop()
            yield pid
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def own_cpu_s() -> float:
    """Return the processor time of this process, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str, folder: Path | None) -> str:
    """Return the path of a peer's program in `folder`, or beside this interpreter."""
    path = (folder or Path(sys.executable).parent) / name
    if not path.exists():
        raise PeerMissing(f"{path} does not exist: pip install --require-hashes -r requirements-bench.lock")
    return str(path)


def program_version(name: str, folder: Path | None, ask: str = "--version") -> str:
    """Return what a peer's program says of its version."""
    command = [program(name, folder), ask]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def server(command: Sequence[str], port: int) -> Iterator[ProcessTree]:
    """Run a server until it listens on `port`; stop it at the end."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + START_S
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > end:
                    raise PeerMissing(f"{command[0]} does not serve (exit code {process.returncode})")
                time.sleep(0.05)
            yield ProcessTree(process.pid)
        finally:
            process.terminate()
            process.wait(timeout=START_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def until(condition: Callable[[], bool], *, timeout_s: float, every_s: float = 0.02) -> None:
    """Return once `condition` holds; raise `TimeoutError`."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  (it looks at other processes)
            await asyncio.sleep(every_s)


def raise_open_files() -> None:
    """Let this process, and those that it starts, have as many open files as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
