"""Temporary mounts for fault tests: made, listed, emptied of their users and always taken away again."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

PREFIX = "forge-fault-"
PROCESS_END_WAIT_S = 10.0
UNMOUNT_POLL_S = 0.02


class MountFailed(Exception):
    """A mount, unmount or mkfs command failed; the message holds the command and what it said."""


class MountBusy(MountFailed):
    """A mount cannot be taken away because a process still uses it."""


def run(*command: str) -> None:
    """Run a command to its end; raise `MountFailed` with its output when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MountFailed(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")


def missing(*commands: str) -> str | None:
    """Return why mounting cannot work here (not root, or a command is missing), or None."""
    if os.geteuid() != 0:
        return "needs root to mount"
    absent = [command for command in commands if shutil.which(command) is None]
    return f"needs {', '.join(absent)} (Debian: apt-get install mount e2fsprogs strace)" if absent else None


def make_directory() -> Path:
    """Return a new directory named after this process, so that a later `sweep` knows whose it was."""
    sweep()
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))


def remove_directory(directory: Path) -> None:
    """Unmount everything one level below `directory`, then delete it; never deletes through a mount."""
    for child in directory.iterdir():
        if os.path.ismount(child):
            unmount(child)
    for child in directory.iterdir():
        if child.is_dir():
            child.rmdir()
        else:
            child.unlink()
    directory.rmdir()


def sweep() -> None:
    """Take away what dead test processes left behind (a killed test run cannot clean up after itself)."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            with contextlib.suppress(MountFailed, OSError):
                remove_directory(left)


def unmount(path: Path) -> None:
    """Kill every other process that uses the mount at `path`, then unmount it.

    Raises `MountBusy` when this process itself holds a file there: close it first.
    """
    deadline = time.monotonic() + PROCESS_END_WAIT_S
    while True:
        kill_users(path)
        try:
            return run("umount", str(path))
        except MountFailed as error:
            # The kernel lets go of a killed process's files some moments after it takes them from its list.
            if time.monotonic() > deadline:
                run("umount", "--lazy", str(path))
                raise MountBusy(f"{path} was still in use and is unmounted lazily") from error
        time.sleep(UNMOUNT_POLL_S)


def kill_users(path: Path) -> list[int]:
    """Send SIGKILL to every process that uses the mount at `path`, wait for their end, return their pids."""
    device = path.stat().st_dev
    killed: list[int] = []
    deadline = time.monotonic() + PROCESS_END_WAIT_S
    while users := users_of(device):
        if os.getpid() in users:
            raise MountBusy(f"this test process still has a file open (or its directory) under {path}")
        if time.monotonic() > deadline:
            raise MountBusy(f"processes {users} use {path} and do not die")
        for pid in users:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed += [pid for pid in users if pid not in killed]
        time.sleep(0.005)
    return killed


def users_of(device: int) -> list[int]:
    """Return the pids of all processes with an open file, a mapping or a directory on `device`."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _uses(entry, device)]


def _uses(process: Path, device: int) -> bool:
    try:
        links = [process / "cwd", process / "root", process / "exe", *(process / "fd").iterdir()]
    except OSError:
        return False
    for link in links:
        try:
            if link.stat().st_dev == device:
                return True
        except OSError:
            continue
    wanted = f"{os.major(device):02x}:{os.minor(device):02x}"
    try:
        return any(line.split()[3] == wanted for line in (process / "maps").read_text().splitlines())
    except OSError:
        return False
