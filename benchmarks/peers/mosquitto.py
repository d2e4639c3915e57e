"""Mosquitto, as Debian packages it, with the persistence that it has."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.processes import PeerMissing, ProcessTree, free_port, server

CONF = """\
listener {port} 127.0.0.1
allow_anonymous true
user root
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 0
persistence true
persistence_location {folder}/
log_dest none
{more}
"""
EVERY_CHANGE = "autosave_on_changes true\nautosave_interval 1"
"""Its file is written, without fsync, after each change. As it comes, that is every 30 minutes and at the end."""


@dataclass(frozen=True, slots=True)
class Mosquitto:
    """A running broker."""

    port: int
    processes: ProcessTree
    store: Path

    def stored_bytes(self) -> int:
        """Return how much is in its file: what a kill would leave."""
        return self.store.stat().st_size if self.store.exists() else 0


@contextmanager
def mosquitto(folder: Path, more: str = "") -> Iterator[Mosquitto]:
    """Start it with its store in `folder`, with what is there already; `more` are lines of its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    port, conf = free_port(), folder / "mosquitto.conf"
    conf.write_text(CONF.format(port=port, folder=folder, more=more))
    with server([_program(), "-c", str(conf)], port) as processes:
        yield Mosquitto(port, processes, folder / "mosquitto.db")


def mosquitto_version() -> str:
    """Return what it says of its version."""
    said = subprocess.run([_program(), "-h"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\S+)", said)
    return f"mosquitto {found[1] if found else '?'}"


def _program() -> str:
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise PeerMissing("there is no mosquitto: apt-get install mosquitto")
    return found
