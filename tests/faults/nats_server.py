"""One nats-server process with JetStream, for tests that stop, kill and restart it on the same store."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

READY_WAIT_S = 30.0
READY_POLL_S = 0.02
EXECUTABLE = Path(sys.executable).parent / "nats-server"


class ServerDied(Exception):
    """nats-server ended before it was ready; the message holds the end of its log."""


class NatsServer:
    """nats-server on a free port of 127.0.0.1, storing under `store`; configuration and log go to `home`.

    Entering the context starts it and waits until JetStream answers; leaving it kills it. The port survives restarts.
    """

    def __init__(self, home: Path, store: Path, *, sync_always: bool) -> None:
        self._home = home
        self._process: asyncio.subprocess.Process | None = None
        self.port = _free_port()
        self.log = home / "nats-server.log"
        sync = "sync_interval: always" if sync_always else ""
        self._config = home / "nats-server.conf"
        self._config.write_text(
            f"listen: 127.0.0.1:{self.port}\nmax_payload: 8MB\n"
            f'jetstream {{ store_dir: "{store}", max_file_store: 1GB, max_memory_store: 64MB, {sync} }}\n'
        )

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise RuntimeError("nats-server is not running: call start()")
        return self._process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(signal.SIGKILL)

    async def start(self) -> None:
        """Start the server and return when it greets clients with JetStream enabled."""
        assert self._process is None, "nats-server already runs"
        self._process = await asyncio.create_subprocess_exec(
            EXECUTABLE, "--config", self._config, "--log", self.log, "--trace=false"
        )
        try:
            async with asyncio.timeout(READY_WAIT_S):
                await self._greeting()
        except BaseException:
            await self.stop(signal.SIGKILL)
            raise

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send the signal, if the server still runs, and return when it has ended."""
        if self._process is None:
            return
        # Not Process.send_signal: it reaps a dead child under the feet of asyncio, which then warns.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, how)
        await self._process.wait()
        self._process = None

    async def restart(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Stop the server with the signal (or note that it is dead already) and start it again."""
        await self.stop(how)
        await self.start()

    async def _greeting(self) -> None:
        while True:
            if await self._greets():
                return
            await asyncio.sleep(READY_POLL_S)

    async def _greets(self) -> bool:
        assert self._process is not None
        if self._process.returncode is not None:
            tail = self.log.read_text().splitlines()[-10:] if self.log.exists() else []
            raise ServerDied(f"nats-server ended with {self._process.returncode}: " + "\n".join(tail))
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            return b'"jetstream":true' in await reader.readline()
        except OSError:
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
