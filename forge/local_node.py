"""How commands find the node that runs on a data directory: a file that the node writes and removes."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from forge.private_file import write_private

FILE_NAME = "node.json"
TOKEN_NAME = "root.token"


@dataclass(frozen=True, slots=True)
class LocalNode:
    """A node that is running here; `monitor_url` is the HTTP monitoring address of its NATS server."""

    pid: int
    url: str
    monitor_url: str = ""


def announce(data_dir: Path, node: LocalNode) -> None:
    """Say that `node` serves `data_dir`; call it when it is ready to answer."""
    write_private(data_dir / FILE_NAME, json.dumps(asdict(node)))


def withdraw(data_dir: Path) -> None:
    """Take the announcement back; call it at a graceful stop."""
    (data_dir / FILE_NAME).unlink(missing_ok=True)


def find(data_dir: Path) -> LocalNode | None:
    """Return the node that announced itself and whose process still exists, or None."""
    try:
        said = json.loads((data_dir / FILE_NAME).read_text())
        node = LocalNode(int(said["pid"]), str(said["url"]), str(said.get("monitor_url") or ""))
        os.kill(node.pid, 0)
    except PermissionError:
        return None  # somebody else's node: its address is not ours to use
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return node


def target(data_dir: Path, url: str, token: str) -> tuple[str, str]:
    """Return the address to ask and the token to send: those given, else those of the node on `data_dir`.

    The address is empty if none was given and no node runs. The root token is sent to that node alone, never to
    another address.
    """
    here = find(data_dir)
    asked = (url or (here.url if here else "")).rstrip("/")
    if not token and here and asked == here.url.rstrip("/"):
        token = root_token(data_dir)
    return asked, token


def root_token(data_dir: Path) -> str:
    """Return the root token of `data_dir`, empty if there is none that this user may read."""
    try:
        return (data_dir / TOKEN_NAME).read_text().strip()
    except OSError:
        return ""
