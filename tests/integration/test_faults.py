"""The fault tools do what they say to real file systems and processes, and clean up behind them."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import nats
import nats.errors
import pytest

from tests.faults import disk, mounts, powercut, syscalls
from tests.faults.killer import is_alive, kill, kill_at_random_moments, stalled
from tests.faults.nats_server import NatsServer
from tests.faults.powercut import PowerCutDisk
from tests.faults.syscalls import failing_syscalls

WAIT_S = 10.0
FSYNC_LOOP = """
import os, sys
handle = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
print("ready", flush=True)
for line in sys.stdin:
    try:
        os.fsync(handle)
        print("synced", flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""


@pytest.fixture
def power() -> Iterator[PowerCutDisk]:
    if reason := powercut.unavailable():
        pytest.skip(f"POWER CUTS ARE NOT TESTED: {reason}")
    with PowerCutDisk(16) as power:
        yield power


@pytest.fixture
def tmpfs() -> Iterator[disk.SmallDisk]:
    if reason := disk.unavailable():
        pytest.skip(f"FULL DISKS ARE NOT TESTED: {reason}")
    with disk.small_tmpfs(1 << 20) as small:
        yield small


@pytest.fixture
def strace() -> None:
    if reason := syscalls.unavailable():
        pytest.skip(f"FAILING SYSTEM CALLS ARE NOT TESTED: {reason}")


@asynccontextmanager
async def child(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process that prints a first line when it is ready; killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), WAIT_S) == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def write(path: Path, *, sync: bool) -> None:
    handle = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.write(handle, b"content")
    if sync:
        os.fsync(handle)
    os.close(handle)


@pytest.mark.root
def test_a_power_cut_keeps_what_was_fsynced_and_loses_the_rest(power: PowerCutDisk) -> None:
    for cut in range(3):
        write(power.path / f"synced-{cut}", sync=True)
        write(power.path / f"unsynced-{cut}", sync=False)
        power.cut()
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            write(power.path / "after", sync=False)
        power.remount()

        assert (power.path / f"synced-{cut}").read_bytes() == b"content"
        unsynced = power.path / f"unsynced-{cut}"
        assert not unsynced.exists() or unsynced.read_bytes() == b""
    assert power.cuts == 3


@pytest.mark.root
async def test_a_remount_kills_the_processes_that_use_the_disk(power: PowerCutDisk) -> None:
    async with child("-c", FSYNC_LOOP, str(power.path / "open")) as user:
        power.cut()

        assert power.remount() == [user.pid]
        assert await asyncio.wait_for(user.wait(), WAIT_S) == -signal.SIGKILL


@pytest.mark.root
def test_a_remount_names_this_process_when_it_is_the_one_in_the_way(power: PowerCutDisk) -> None:
    with (power.path / "mine").open("wb"), pytest.raises(mounts.MountBusy, match="this test process"):
        power.remount()


@pytest.mark.root
@pytest.mark.usefixtures("power")
def test_the_next_run_takes_away_what_a_killed_run_left_mounted() -> None:
    script = (
        "import os, signal; from tests.faults.powercut import PowerCutDisk\n"
        "disk = PowerCutDisk(8).__enter__(); print(disk.path, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    left = Path(killed.stdout.strip())
    assert left.is_mount()

    mounts.sweep()

    assert not left.parent.exists()
    assert str(left.parent) not in subprocess.run(["losetup", "-a"], capture_output=True, text=True).stdout


@pytest.mark.root
def test_nothing_stays_mounted_when_a_test_fails(power: PowerCutDisk) -> None:
    paths: list[Path] = [power.path]
    for mounted in (PowerCutDisk(8), disk.small_tmpfs(1 << 20)):
        with suppress(ZeroDivisionError), mounted as other:
            paths.append(other.path)
            assert other.path.is_mount()
            raise ZeroDivisionError

    assert [path.is_mount() for path in paths] == [True, False, False]
    assert not paths[1].parent.exists()


@pytest.mark.root
def test_a_small_disk_is_full_until_it_grows(tmpfs: disk.SmallDisk) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        (tmpfs.path / "large").write_bytes(bytes(2 << 20))
    tmpfs.grow(4 << 20)
    (tmpfs.path / "large").write_bytes(bytes(2 << 20))

    assert tmpfs.free_bytes == 2 << 20


@pytest.mark.root
def test_ballast_leaves_as_much_free_as_asked_and_gives_it_back(tmpfs: disk.SmallDisk) -> None:
    ballast = tmpfs.fill(leave_bytes=64 << 10)
    assert tmpfs.free_bytes == 64 << 10
    ballast.unlink()
    assert tmpfs.free_bytes == 1 << 20


async def fsync_answers(process: asyncio.subprocess.Process, count: int) -> list[str]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n" * count)
    return [(await asyncio.wait_for(process.stdout.readline(), WAIT_S)).decode().strip() for _ in range(count)]


@pytest.mark.usefixtures("strace")
async def test_fsync_fails_as_asked_inside_the_block_and_works_after_it(tmp_path: Path) -> None:
    async with child("-c", FSYNC_LOOP, str(tmp_path / "file")) as process:
        async with failing_syscalls(process.pid, error="EIO", when="2+") as injection:
            assert await fsync_answers(process, 3) == ["synced", str(errno.EIO), str(errno.EIO)]
            assert injection.count() == 2

        assert await fsync_answers(process, 2) == ["synced", "synced"]


@pytest.mark.usefixtures("strace")
async def test_fsync_can_be_slow_and_still_work(tmp_path: Path) -> None:
    async with (
        child("-c", FSYNC_LOOP, str(tmp_path / "file")) as process,
        failing_syscalls(process.pid, error=None, delay_us=1000) as injection,
    ):
        assert await fsync_answers(process, 2) == ["synced", "synced"]
        assert injection.count() == 2


@pytest.mark.usefixtures("strace")
async def test_an_injection_into_no_process_says_so() -> None:
    with pytest.raises(syscalls.InjectionFailed, match="No such process"):
        async with failing_syscalls(2**22 + 1):
            pass


@pytest.mark.usefixtures("strace")
async def test_a_failed_fsync_leaves_nats_server_without_acks_until_it_is_restarted(tmp_path: Path) -> None:
    """PR1: no ack without fsync; and the wedge is real that makes the stack watch the server's health."""
    async with NatsServer(tmp_path, tmp_path / "jetstream", sync_always=True) as server:
        client = await nats.connect(server.url)
        try:
            jetstream = client.jetstream()
            await jetstream.add_stream(name="SYNC", subjects=["sync"])
            assert (await jetstream.publish("sync", b"before")).seq == 1
            async with failing_syscalls(server.pid) as injection:
                with pytest.raises((nats.errors.Error, TimeoutError)):
                    await jetstream.publish("sync", b"failed", timeout=1)
                assert injection.count() > 0
            with pytest.raises((nats.errors.Error, TimeoutError)):
                await jetstream.publish("sync", b"wedged", timeout=1)
        finally:
            await client.close()
        await server.restart()
        client = await nats.connect(server.url)
        try:
            assert (await client.jetstream().publish("sync", b"after")).seq > 1
        finally:
            await client.close()


async def kill_sleepers(seed: int | None, kills: int) -> list[float]:
    sleepers: list[asyncio.subprocess.Process] = []

    async def next_sleeper() -> int:
        sleepers.append(await asyncio.create_subprocess_exec("sleep", "60"))
        return sleepers[-1].pid

    done = await kill_at_random_moments(next_sleeper, kills=kills, seed=seed, latest_s=0.05)
    assert [kill.pid for kill in done] == [sleeper.pid for sleeper in sleepers]
    assert [await sleeper.wait() for sleeper in sleepers] == [-signal.SIGKILL] * kills
    return [kill.after_s for kill in done]


async def test_kills_come_at_the_same_moments_for_the_same_seed(capsys: pytest.CaptureFixture[str]) -> None:
    moments = await kill_sleepers(None, 5)
    seed = int(capsys.readouterr().out.strip().rpartition("seed=")[2])

    assert await kill_sleepers(seed, 5) == moments
    assert len(set(moments)) == 5


async def test_a_victim_that_ended_by_itself_is_no_kill() -> None:
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()

    async def next_victim() -> int:
        return ended.pid

    with pytest.raises(AssertionError, match="ended by itself"):
        await kill_at_random_moments(next_victim, kills=1, latest_s=0.01)


@pytest.mark.parametrize("pid", [0, 1, os.getpid()], ids=["nobody", "init", "itself"])
async def test_the_killer_spares_itself_and_init(pid: int) -> None:
    with pytest.raises(ValueError, match="will not kill"):
        await kill(pid)


async def test_a_stalled_process_does_nothing_until_the_block_ends(tmp_path: Path) -> None:
    async with child("-c", FSYNC_LOOP, str(tmp_path / "file")) as process:
        with stalled(process.pid):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(fsync_answers(process, 1), 0.2)
            assert is_alive(process.pid)
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), WAIT_S) == b"synced\n"
