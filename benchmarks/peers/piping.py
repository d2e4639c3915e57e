"""piping-server, the relay of Node, from npm."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.processes import PeerMissing, free_port, server
from benchmarks.peers.relaying import Relay

PACKAGE = "piping-server@1.12.9"
FOLDER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "forge-bench"
PROGRAM = FOLDER / "node_modules" / ".bin" / "piping-server"


@contextmanager
def piping_server() -> Iterator[Relay]:
    """Start it."""
    port = free_port()
    command = [_program(), "--host", "127.0.0.1", "--http-port", str(port)]
    with server(command, port) as processes:
        yield Relay("piping-server", port, processes)


def piping_version() -> str:
    """Return what it and Node say of their versions."""
    return f"piping-server {_said(_program())}, node {_said(shutil.which('node') or 'node')}"


def _said(program: str) -> str:
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip()


def _program() -> str:
    if not PROGRAM.exists():
        raise PeerMissing(f"{PROGRAM} does not exist: npm install --prefix {FOLDER} {PACKAGE}")
    return str(PROGRAM)
