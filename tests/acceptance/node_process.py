"""A real node as a user runs it: `forge up` in a process of its own, to start, stop, kill and ask."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import httpx2

from forge.client import ForgeClient
from forge.datadir import read_root_token
from forge.stack import launch
from schemas.settings import Settings
from tests.faults.killer import is_alive

FORGE = Path(sys.executable).with_name("forge")
READY_WAIT_S = 90.0
STOP_WAIT_S = 90.0
CLI_WAIT_S = 300.0
GONE_WAIT_S = 20.0
POLL_S = 0.02
PROBE_TIMEOUT_S = 30.0  # a machine that stalls is no node that does not answer
CHILDREN = {"nats": b"nats-server", "worker": b"embedding_server"}

ChildName = Literal["nats", "worker"]


@dataclass(frozen=True, slots=True)
class Finished:
    """A command line that ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str


class NodeProcess:
    """`forge up` with data and cache below `disk` (default: `home`), logs below `home`, nothing of the user's.

    `environ` is the whole environment of the node and of `cli`; `extra` is added to it. The kernel kills the
    node, and with it its children, when the test process dies.
    """

    COMMAND: ClassVar[tuple[str, ...]] = ("up", "--listen", "127.0.0.1:0")

    def __init__(
        self,
        home: Path,
        *,
        disk: Path | None = None,
        extra: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.home = home
        self.data, self.cache = (disk or home) / "data", (disk or home) / "cache"
        self.log = home / "node.log"
        self.environ = {
            "PATH": f"{FORGE.parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "FORGE_DATA_DIR": str(self.data),
            "FORGE_CACHE_DIR": str(self.cache),
            "FORGE_LOG_FORMAT": "json",
        } | dict(extra or {})
        self.url = ""
        self.token = ""
        self.options = options
        self._output = home / "up.json"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Process id of the node that was started last."""
        assert self._process is not None, "the node was never started"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and is_alive(self._process.pid)

    @property
    def settings(self) -> Settings:
        """The settings that the node reads."""
        return Settings.load(self.environ)

    async def start(self, *, until_ready: bool = True) -> float:
        """Start the node, which must not run; return the seconds until /readyz said yes (or at once)."""
        assert not self.runs, f"the node already runs as {self.pid}"
        if self._process is not None:
            await self._process.wait()
        started = time.monotonic()
        command = (str(FORGE), *self.COMMAND, "--json", *self.options)
        with self._output.open("wb") as output, self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=self.environ,
                cwd=self.home,
            )
        if until_ready:
            await self.ready()
        return time.monotonic() - started

    async def serving(self, within_s: float = READY_WAIT_S) -> str:
        """Wait until the node has said where it listens; return the URL."""
        self.url = (await self.announced(within_s))["url"]
        self.token = read_root_token(self.data)
        return self.url

    async def announced(self, within_s: float = READY_WAIT_S) -> dict[str, Any]:
        """Wait until it has printed its first line; return what that says."""
        deadline = time.monotonic() + within_s
        while not (line := self._output.read_bytes()).endswith(b"\n"):
            self._must_go_on(deadline, "say that it is up")
            await asyncio.sleep(POLL_S)
        said: dict[str, Any] = json.loads(line)
        return said

    async def ready(self, within_s: float = READY_WAIT_S) -> None:
        """Wait until /readyz answers 200."""
        deadline = time.monotonic() + within_s
        await self.serving(within_s)
        answer = ""
        async with self.http() as http:
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    response = await http.get("/readyz")
                    if response.status_code == 200:
                        return
                    answer = response.text
                self._must_go_on(deadline, f"become ready; /readyz said {answer}")
                await asyncio.sleep(POLL_S)

    async def stop(self) -> int:
        """Stop it with SIGTERM, as Ctrl-C and service managers do; return its exit code."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_WAIT_S):
                return await self._process.wait()
        except TimeoutError:
            raise AssertionError(f"the node did not stop within {STOP_WAIT_S:g} s:\n{self._tail()}") from None

    async def close(self) -> None:
        """Kill what still runs; fail if a child outlives the node."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        await self._process.wait()
        deadline = time.monotonic() + GONE_WAIT_S
        while left := [pid for path in (self.data, self.cache) for pid in users_of(path)]:
            if time.monotonic() > deadline:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                raise AssertionError(f"processes {left} of the node outlived it by {GONE_WAIT_S:g} s")
            await asyncio.sleep(POLL_S)

    def child(self, name: ChildName) -> int | None:
        """Return the pid of a child of the node, None while it is down."""
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                for child in (task / "children").read_text().split():
                    program = Path(f"/proc/{child}/cmdline").read_bytes()
                    if CHILDREN[name] in program and b"launch.py" not in program and is_alive(int(child)):
                        return int(child)
        return None

    def http(self) -> httpx2.AsyncClient:
        """Return a client of the node that runs now, with its root token; close it."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=PROBE_TIMEOUT_S, trust_env=False)

    def client(self) -> ForgeClient:
        """Return the typed client of the node that runs now; close it."""
        return ForgeClient(self.url, self.token)

    async def cli(self, *arguments: str) -> Finished:
        """Run `forge` with `arguments` on this node's directories."""
        process = await asyncio.create_subprocess_exec(
            FORGE, *arguments, env=self.environ, cwd=self.home, stdout=-1, stderr=-1, stdin=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(CLI_WAIT_S):
                out, err = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        assert process.returncode is not None
        return Finished(process.returncode, out.decode(), err.decode())

    def _must_go_on(self, deadline: float, what: str) -> None:
        assert self.runs, f"forge up ended before it could {what}\n{self._tail()}"
        assert time.monotonic() < deadline, f"forge up did not {what}\n{self._tail()}"

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


def users_of(directory: Path) -> list[int]:
    """Return the pids of other processes that have a file or their working directory below `directory`."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and int(entry.name) != os.getpid() and _uses(entry, str(directory))
    ]


def _uses(process: Path, directory: str) -> bool:
    with contextlib.suppress(OSError):
        for link in (process / "cwd", *(process / "fd").iterdir()):
            with contextlib.suppress(OSError):
                if os.readlink(link).startswith(directory):
                    return True
    return False
