"""Nodes that share one prefix, each with a data directory of its own, to kill, restore and start again."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from benchmarks.peers.processes import ProcessTree
from forge.stack.weed import Weed

START_S = 3600.0
_REQUESTS = re.compile(r'^forge_object_requests_total\{operation="(\w+)",outcome="\w+"\} (\S+)$', re.MULTILINE)
COUNTED = """
import sys
from prometheus_client import generate_latest
from forge.cli import main
try:
    main()
finally:
    sys.stderr.write(generate_latest().decode())
"""


class SharingNode:
    """A node in `folder`. It is not stopped by itself."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.data = folder / "data"
        quiet = {"FORGE_LOG_LEVEL": "error", "FORGE_CACHE_DIR": str(folder / "cache")}
        self._environ = {**os.environ, **quiet, **environ}
        self._process: subprocess.Popen[str] | None = None
        self.port = 0
        self.token = ""

    def start(self) -> float:
        """Start it and return when it listens; return how long that took."""
        began = time.perf_counter()
        command = [sys.executable, "-m", "forge", "up", "--data-dir", str(self.data), "--listen", "127.0.0.1:0"]
        self._process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True, env=self._environ)
        assert self._process.stdout is not None
        port = urlsplit(json.loads(self._process.stdout.readline())["url"]).port
        assert port is not None
        self.port, self.token = port, (self.data / "root.token").read_text().strip()
        return time.perf_counter() - began

    @property
    def pid(self) -> int:
        """The node's process."""
        assert self._process is not None
        return self._process.pid

    def end(self, how: int = signal.SIGTERM) -> float:
        """End it by a signal and return when it is gone; return how long that took."""
        began = time.perf_counter()
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(timeout=START_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return time.perf_counter() - began

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def requests(self) -> dict[str, int]:
        """Return how many requests it has sent to the store, by their kind."""
        return counted(self._get("/metrics").decode())

    def said(self, path: str) -> Any:
        """Return what it says at a path, whatever the status."""
        return json.loads(self._get(path))

    def _get(self, path: str) -> bytes:
        request = Request(f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {self.token}"})
        try:
            with urlopen(request) as answer:
                return bytes(answer.read())
        except HTTPError as error:
            with error:
                return error.read()

    def memory_mib(self) -> dict[str, float]:
        """Return its resident memory by program, and the most that the node itself ever had."""
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert peak is not None
        return ProcessTree(self.pid).rss_mib() | {"node_peak": round(int(peak[1]) / 1024, 1)}

    def command(self, *arguments: str) -> dict[str, Any]:
        """Run a `forge` command on its data; return its JSON, time, peak memory and requests to the store."""
        self.data.parent.mkdir(exist_ok=True)
        began = time.perf_counter()
        environ = self._environ | {"FORGE_DATA_DIR": str(self.data)}
        command: Sequence[str] = [sys.executable, "-c", COUNTED, *arguments, "--json"]
        said, told = self.data.parent / "said.json", self.data.parent / "told.txt"
        with said.open("w") as out, told.open("w") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, env=environ)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise RuntimeError(
                f"forge {' '.join(arguments)} ended with {process.returncode}: {told.read_text()[:2000]}"
            )
        return {
            "said": json.loads(said.read_text()),
            "seconds": round(seconds, 2),
            "cpu_s": round(used.ru_utime + used.ru_stime, 2),
            "peak_mib": round(used.ru_maxrss / 1024, 1),
            "requests": counted(told.read_text()),
        }


def counted(metrics: str) -> dict[str, int]:
    """Return how many requests to the store metrics tell of, by their kind."""
    found: dict[str, int] = {}
    for operation, value in _REQUESTS.findall(metrics):
        found[operation] = found.get(operation, 0) + int(float(value))
    return found


def difference(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """Return what came between two counts."""
    return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}


@asynccontextmanager
async def bucket(name: str) -> AsyncIterator[tuple[Weed, Path]]:
    """Give an object store with a bucket, and a folder; both are gone in the end."""
    with tempfile.TemporaryDirectory() as folder:
        async with Weed(Path(folder), supervised=False) as weed:
            client = weed.s3_client()
            client.create_bucket(Bucket=name)
            client.close()
            yield weed, Path(folder)


@contextmanager
def started(node: SharingNode) -> Iterator[None]:
    """Run a node inside the block."""
    try:
        node.start()
        yield
    finally:
        if node.runs:
            node.end()
