"""One program as a child process: started, watched, restarted, and never outliving its parent."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import structlog
from prometheus_client import Counter

from forge.stack.child_log import bound_log, log_tail, open_log
from forge.stack.errors import ChildFailed
from forge.stack.health import Health, Probe

RESTARTS = Counter("forge_child_restarts", "Restarts of a child process by its supervisor", ["child"])
BACKOFF_MIN_S = 0.1
SLOW_START_S = 5.0  # after this it is worth a line in the log
STEADY_S = 60.0  # a child that ran this long starts over with the shortest backoff
_READY_POLL_S = 0.02
_LAUNCH = Path(__file__).with_name("launch.py")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a child may take, in seconds."""

    start_s: float = 120.0
    interval_s: float = 1.0
    ill_s: float = 2.0  # it answers that it is unhealthy
    silent_s: float = 10.0  # it does not answer
    stop_s: float = 5.0  # between SIGTERM and SIGKILL
    backoff_max_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: `argv[0]` is an absolute path, `env` the whole environment, `inherit_fds` stay open."""

    name: str
    argv: Sequence[str]
    log_path: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    inherit_fds: Sequence[int] = ()


class Child:
    """A program that runs from `start` to `stop`, restarted whenever it exits or stays unhealthy.

    The kernel kills it when the thread that started it ends, which is the thread of the event loop: without
    that loop nobody would supervise the child. `healthy` and `problem` tell the last probe, `restarts`
    counts. With `supervised=False` it is left as it is when it dies, and `start` may be called again.
    """

    def __init__(
        self, program: Program, probe: Probe, *, bounds: Bounds | None = None, supervised: bool = True
    ) -> None:
        self.program = program
        self.healthy = False
        self.problem = "not started"
        self.restarts = 0
        self._probe = probe
        self._bounds = bounds or Bounds()
        self._supervised = supervised
        self._process: asyncio.subprocess.Process | None = None
        self._exit: asyncio.Task[int] | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, None while it is down."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the program and wait until it is well; `ChildFailed` if that takes too long or it exits."""
        assert self.pid is None, f"{self.program.name} is already started"
        try:
            await self._launch()
        except BaseException:
            await self._end()
            raise
        if self._supervised:
            self._supervisor = asyncio.create_task(self._supervise(), name=f"supervise {self.program.name}")

    async def stop(self) -> None:
        """End the program: SIGTERM, and SIGKILL after the bound. May be called again."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        await self._end()
        self.healthy, self.problem = False, "stopped"

    async def kill(self) -> None:
        """End the program with SIGKILL, as a crash would; the supervisor, if any, starts it again."""
        if self._process is not None and self._exit is not None and self._process.returncode is None:
            self._process.kill()
            await asyncio.wait({self._exit})
            self.healthy, self.problem = False, "killed"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _launch(self) -> None:
        program = self.program
        if self.pid is not None:  # two servers on one store would be worse than none
            raise self._failed("does not end, not even by SIGKILL")
        bound_log(program.log_path)
        log = open_log(program.log_path)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", str(_LAUNCH), str(os.getpid())),
                *program.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(program.env),
                cwd=program.cwd,
                pass_fds=tuple(program.inherit_fds),
                start_new_session=True,  # Ctrl-C in a terminal is for the node, which stops it in order
            )
        finally:
            os.close(log)
        self._exit = asyncio.create_task(self._process.wait())
        await self._await_ready()

    async def _await_ready(self) -> None:
        deadline = time.monotonic() + self._bounds.start_s
        tell_at = time.monotonic() + SLOW_START_S
        while True:
            health = await self._ask()
            if health.verdict == "well" and self.pid is not None:
                self.healthy, self.problem = True, ""
                return
            if await self._exited(_READY_POLL_S):
                raise self._failed(self._exit_reason())
            if time.monotonic() > tell_at:
                tell_at = deadline
                _log.warning("still waiting", child=self.program.name, detail=health.detail, log=self.program.log_path)
            if time.monotonic() > deadline:
                raise self._failed(f"was not ready after {self._bounds.start_s:g} s ({health.detail})")

    def _failed(self, why: str) -> ChildFailed:
        path = self.program.log_path
        return ChildFailed(self.program.name, why, path, log_tail(path))

    async def _supervise(self) -> None:
        backoff_s = BACKOFF_MIN_S
        while True:
            since = time.monotonic()
            why = await self._failure()
            if time.monotonic() - since > STEADY_S:
                backoff_s = BACKOFF_MIN_S
            self.healthy, self.problem = False, why
            self.restarts += 1
            RESTARTS.labels(self.program.name).inc()
            _log.warning("child restarts", child=self.program.name, why=why, wait_s=backoff_s)
            await self._end()
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, self._bounds.backoff_max_s)
            try:
                await self._launch()
                _log.info("child runs again", child=self.program.name, pid=self.pid)
            except Exception as error:  # the outermost loop: whatever it was, the next round tries again
                self.problem = str(error)
                _log.error("child did not start", child=self.program.name, why=self.problem)

    async def _failure(self) -> str:
        """Return once the child has to be restarted, with the reason."""
        bad_since: float | None = None
        while not await self._exited(self._bounds.interval_s):
            asked = time.monotonic()
            health = await self._ask()
            bound_log(self.program.log_path)
            if health.verdict == "well":
                bad_since = None
                self.healthy, self.problem = True, ""
                continue
            self.healthy, self.problem = False, health.detail
            bad_since = bad_since or asked
            bound_s = self._bounds.ill_s if health.verdict == "ill" else self._bounds.silent_s
            if time.monotonic() - bad_since >= bound_s:
                return health.detail
        return self._exit_reason()

    async def _ask(self) -> Health:
        try:
            return await self._probe()
        except Exception as error:  # a probe that breaks must not end the supervision
            return Health("silent", f"the probe failed: {error!r}")

    async def _exited(self, within_s: float) -> bool:
        if self._exit is None:
            return True
        done, _ = await asyncio.wait({self._exit}, timeout=within_s)
        return bool(done)

    def _exit_reason(self) -> str:
        code = self._process.returncode if self._process else None
        if code is None:
            return self.problem
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"

    async def _end(self) -> None:
        if self._process is None or self._exit is None:
            return
        try:
            if self.pid is not None:
                self._process.terminate()
                await asyncio.wait({self._exit}, timeout=self._bounds.stop_s)
        finally:  # also when the caller is cancelled meanwhile
            if self.pid is not None:
                _log.info("child did not stop in time", child=self.program.name, pid=self.pid)
                self._process.kill()
        await asyncio.wait({self._exit}, timeout=self._bounds.stop_s)
