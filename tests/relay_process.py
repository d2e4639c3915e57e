"""A relay in a process of its own, so that what it needs can be measured: `python -m tests.relay_process`."""

import asyncio
import re
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from api.limits import Limits
from tests.relaying import relaying

_HIGH_WATER = re.compile(r"VmHWM:\s+(\d+) kB")
_RESIDENT = re.compile(r"VmRSS:\s+(\d+) kB")


@dataclass(frozen=True)
class RelayProcess:
    """Where it is, and what it uses."""

    host: str
    port: int
    pid: int

    @property
    def resident_bytes(self) -> int:
        """How much memory it uses now."""
        return self._status(_RESIDENT)

    @property
    def peak_bytes(self) -> int:
        """How much it used at most."""
        return self._status(_HIGH_WATER)

    def _status(self, wanted: re.Pattern[str]) -> int:
        found = wanted.search(Path(f"/proc/{self.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024


@asynccontextmanager
async def relay_process() -> AsyncIterator[RelayProcess]:
    """Start one, and end it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.relay_process", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    try:
        host, port = (await process.stdout.readline()).decode().split()
        yield RelayProcess(host, int(port), process.pid)
    finally:
        process.stdin.close()
        assert await process.wait() == 0


async def _serve() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    async with relaying(limits=Limits(connections_max=20_000)) as served:
        print(served.host, served.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_serve())
