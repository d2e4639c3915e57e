"""A real node in a process of its own, for benchmarks."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class BenchNode:
    """A node that serves: where, with which token, in which folder."""

    url: str
    token: str
    data: Path
    pid: int

    def cpu_s(self) -> float:
        """Return the processor time that the node itself, without its children, has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def rss_bytes(self) -> int:
        """Return the resident memory of the node itself."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def bench_node(**environ: str) -> Iterator[BenchNode]:
    """Start `forge up` on free ports in a temporary folder; stop it at the end."""
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        command = [sys.executable, "-m", "forge", "up", "--data-dir", str(data), "--listen", "127.0.0.1:0", "--json"]
        env = os.environ | {"FORGE_LOG_LEVEL": "error"} | environ
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
            assert process.stdout is not None
            try:
                said = json.loads(process.stdout.readline())
                yield BenchNode(said["url"], (data / "root.token").read_text().strip(), data, process.pid)
            finally:
                process.terminate()
                process.wait(timeout=30)
