"""The tools of the crash tests clean up after themselves: no process, mount or loop device stays, whatever fails."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.node_process import NodeProcess, users_of
from tests.faults import powercut
from tests.faults.killer import is_alive
from tests.faults.powercut import PowerCutDisk
from tests.waiting import until

STARTS_A_NODE = """
import asyncio, pathlib, sys
from tests.acceptance.node_process import NodeProcess

async def main():
    node = NodeProcess(pathlib.Path(sys.argv[1]))
    await node.start()
    print(node.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_node_and_its_children_die_with_the_test_process(tmp_path: Path) -> None:
    command = (sys.executable, "-c", STARTS_A_NODE, str(tmp_path))
    test = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert test.stdout is not None
    pid = int(await test.stdout.readline())
    await until(lambda: len(users_of(tmp_path / "data")) == 3)  # the node, nats-server and the embedding worker

    os.kill(test.pid, signal.SIGKILL)
    await test.communicate()

    await until(lambda: not is_alive(pid) and not users_of(tmp_path))


async def test_closing_a_node_ends_what_it_started(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path)
    await node.start()
    await until(lambda: None not in (node.child("nats"), node.child("worker")))
    children = [node.child("nats"), node.child("worker")]

    await node.close()

    assert None not in children
    assert not any(is_alive(pid) for pid in [node.pid, *children] if pid)
    assert users_of(tmp_path) == []


@pytest.mark.root
async def test_a_failure_during_a_power_cut_leaves_no_process_mount_or_loop_device(tmp_path: Path) -> None:
    if reason := powercut.unavailable():
        pytest.skip(f"POWER CUTS ARE NOT TESTED: {reason}")
    started: list[int] = []
    folders: list[Path] = []
    with pytest.raises(ZeroDivisionError):
        await fail_during_a_cut(tmp_path, started, folders)

    assert len(started) == 3
    assert not any(is_alive(pid) for pid in started)
    assert mounts_and_loop_devices(folders[0]) == []
    assert not folders[0].exists()


async def fail_during_a_cut(home: Path, started: list[int], folders: list[Path]) -> None:
    """Run a node on a disk, note its three processes and the disk's folder, cut the power and fail."""
    with PowerCutDisk(size_mb=512) as disk:
        node = NodeProcess(home, disk=disk.path)
        await node.start()
        await until(lambda: None not in (node.child("nats"), node.child("worker")))
        folders.append(disk.path.parent)
        started += [pid for pid in (node.pid, node.child("nats"), node.child("worker")) if pid]
        disk.cut()
        raise ZeroDivisionError


def mounts_and_loop_devices(folder: Path) -> list[str]:
    """Return the mounts and loop devices that this machine has below `folder`."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    backing = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # that of somebody else went away
            backing.append(file.read_text())
    return [line for line in mounts + backing if str(folder) in line]
