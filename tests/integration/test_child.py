"""Child processes: supervised while the parent lives, gone when it is gone."""

import asyncio
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forge.datadir import DataDir
from forge.stack.builtin_worker import BuiltinWorker
from forge.stack.child import Bounds, Child, Program
from forge.stack.child_log import bound_log
from forge.stack.errors import ChildFailed
from forge.stack.health import Health
from tests.waiting import running, until

LAUNCH = Path(__file__).parents[2] / "forge" / "stack" / "launch.py"
WORKER = """
import argparse, http.server
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--parent-pid", type=int)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", parser.parse_args().port), Handler).serve_forever()
"""
PARENT = """
import asyncio, sys
from pathlib import Path
from forge.datadir import DataDir
from forge.stack.builtin_worker import BuiltinWorker
from forge.stack.nats import NatsServer

async def main(folder, modules):
    data = DataDir.open(folder)
    worker = BuiltinWorker(
        folder, module="fake_worker", env={"PYTHONPATH": modules}, inherit_fds=[data.lock_fd]
    )
    async with NatsServer(folder, inherit_fds=[data.lock_fd]) as server, worker:
        print(server.pid, worker.child.pid, flush=True)
        await asyncio.Event().wait()

loop = sys.argv[3]
if loop == "uvloop":
    import uvloop
    uvloop.run(main(Path(sys.argv[1]), sys.argv[2]))
else:
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_no_child_outlives_a_killed_parent(tmp_path: Path, loop: str) -> None:
    """DESIGN 9: not even kill -9 of the node leaves a server behind, and the data directory is free again."""
    (tmp_path / "fake_worker.py").write_text(WORKER)
    data = tmp_path / "data"
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(data), str(tmp_path), loop), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout
    children = [int(pid) for pid in (await parent.stdout.readline()).split()]
    assert len(children) == 2
    assert all(running(pid) for pid in children)

    parent.kill()
    await parent.communicate()

    await until(lambda: not any(running(pid) for pid in children))
    DataDir.open(data).close()


def test_a_child_whose_parent_died_before_it_could_ask_for_the_signal_does_not_start(tmp_path: Path) -> None:
    """The window between fork and prctl: an orphan finds that its parent is not who it should be."""
    trace = tmp_path / "started"

    done = subprocess.run(
        [sys.executable, str(LAUNCH), "999999999", "/usr/bin/touch", str(trace)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (1, "parent 999999999 is gone\n")
    assert not trace.exists()


def test_a_child_ends_with_the_thread_that_started_it() -> None:
    """The kernel's rule that makes the event loop's thread the parent: without it nobody supervises."""
    command = [sys.executable, str(LAUNCH), str(os.getpid()), "/bin/sh", "-c", "echo runs; exec sleep 600"]
    with ThreadPoolExecutor(1) as pool:
        child = pool.submit(subprocess.Popen, command, stdout=subprocess.PIPE, text=True).result()
        assert child.stdout
        assert child.stdout.readline() == "runs\n"
        assert child.poll() is None

    with child:
        assert child.wait(timeout=30) == -signal.SIGKILL


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """PR7: a stop is bounded."""
    stubborn = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)"
    )
    log = tmp_path / "log"

    async def deaf() -> Health:
        return Health("well" if log.exists() and "deaf" in log.read_text() else "silent")

    program = Program("stubborn", (sys.executable, "-c", stubborn), log)
    child = Child(program, deaf, bounds=Bounds(stop_s=0.2))
    await child.start()
    pid = child.pid
    assert pid

    await child.stop()

    assert child.pid is None
    assert not running(pid)


async def test_a_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    async def silent() -> Health:
        return Health("silent", "nothing listens")

    broken = Program("broken", (sys.executable, "-c", "import sys; sys.exit('no such disk')"), tmp_path / "log")
    slow = Program("slow", (sys.executable, "-c", "import time; time.sleep(600)"), tmp_path / "slow.log")
    missing = Program("missing", ("/nowhere/program",), tmp_path / "missing.log")

    with pytest.raises(ChildFailed, match=r"broken exited with code 1(?s:.*)no such disk"):
        await Child(broken, silent).start()
    with pytest.raises(ChildFailed, match=r"slow was not ready after 0\.3 s \(nothing listens\)"):
        await Child(slow, silent, bounds=Bounds(start_s=0.3)).start()
    with pytest.raises(ChildFailed, match="cannot run /nowhere/program: No such file"):
        await Child(missing, silent).start()


async def test_a_child_that_keeps_crashing_is_retried_until_it_runs(tmp_path: Path) -> None:
    """PR7: the supervisor does not give up, and waits between attempts."""
    (tmp_path / "fake_worker.py").write_text(WORKER)
    bounds = Bounds(start_s=60, interval_s=0.1, backoff_max_s=0.2)
    worker = BuiltinWorker(tmp_path, module="fake_worker", env={"PYTHONPATH": str(tmp_path)}, bounds=bounds)
    async with worker:
        (tmp_path / "fake_worker.py").write_text("raise SystemExit('broken today')")
        assert worker.child.pid
        os.kill(worker.child.pid, signal.SIGKILL)
        await until(lambda: worker.child.restarts >= 3)
        assert not worker.child.healthy
        assert "broken today" in worker.child.program.log_path.read_text()

        (tmp_path / "fake_worker.py").write_text(WORKER)

        await until(lambda: worker.child.healthy)


def test_the_log_of_a_child_stays_bounded(tmp_path: Path) -> None:
    """PR7."""
    log = tmp_path / "log"
    log.write_bytes(b"x" * 1001)

    bound_log(log, bytes_max=1000)

    assert log.stat().st_size == 0
    assert log.with_name("log.1").stat().st_size == 1001
