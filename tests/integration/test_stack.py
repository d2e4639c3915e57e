"""The local stack against real programs: what is promised when they crash, wedge, hang, or lose their parent."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import nats
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from forge.datadir import DataDir
from forge.stack.builtin_worker import BuiltinWorker
from forge.stack.child import RESTARTS, Bounds, Child, Program
from forge.stack.child_log import bound_log
from forge.stack.errors import ChildFailed
from forge.stack.health import Health
from forge.stack.nats import NatsServer
from tests.conftest import StartNats
from tests.faults import disk, syscalls

STREAM = StreamConfig(name="FORGE_VECTOR", subjects=["forge.log.vector.*"], allow_direct=True)
SUBJECT = "forge.log.vector.0"
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


async def until(condition: Callable[[], bool], within_s: float = 30) -> None:
    """Wait for `condition`; fail if it does not come true within a bound that only a broken one reaches."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@asynccontextmanager
async def connected(url: str, *others: str, errors: list[Exception] | None = None) -> AsyncIterator[Client]:
    user = url.split("//")[1].split(":")[0]

    async def keep(error: Exception) -> None:
        if errors is not None:
            errors.append(error)

    client = await nats.connect(
        [url, *others],
        inbox_prefix=f"_INBOX_{user}".encode(),
        pending_size=0,
        error_cb=keep,
        reconnect_time_wait=0.05,
    )
    try:
        yield client
    finally:
        await client.close()


async def add_stream(server: NatsServer) -> None:
    async with connected(server.admin_url) as admin:
        await admin.jetstream().add_stream(STREAM)


async def append_until_stored(client: Client, body: bytes) -> int:
    """Publish the same message until it is acknowledged; return its sequence."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return (await client.jetstream(timeout=1).publish(SUBJECT, body)).seq
        except Exception:
            assert time.monotonic() < deadline, "no append succeeded any more"
            await asyncio.sleep(0.05)


async def append_until_refused(client: Client, body: bytes) -> None:
    for _ in range(10):
        await client.jetstream().publish(SUBJECT, body, timeout=1)


async def varz(server: NatsServer) -> dict[str, Any]:
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer: dict[str, Any] = (await client.get(f"{server.monitor_url}/varz")).json()
        return answer


async def test_the_server_syncs_before_it_acknowledges_and_has_explicit_limits(start_nats: StartNats) -> None:
    """PR1 and PR7: what a node checks before it serves writes."""
    server = await start_nats(file_store_bytes=1 << 30)

    state = await varz(server)

    assert state["jetstream"]["config"]["sync_always"] is True
    assert state["jetstream"]["config"]["strict"] is True
    assert state["jetstream"]["config"]["max_storage"] == 1 << 30
    assert state["jetstream"]["config"]["max_memory"] == 64 << 20
    assert (state["max_payload"], state["host"], state["http_host"]) == (8 << 20, "127.0.0.1", "127.0.0.1")


async def test_a_server_with_the_default_sync_interval_says_so(start_nats: StartNats) -> None:
    """PR1: a node can see that such a server acknowledges before the data is on disk."""
    server = await start_nats(sync_always=False)

    assert "sync_always" not in (await varz(server))["jetstream"]["config"]


async def test_a_killed_server_comes_back_on_the_same_ports_with_what_it_acknowledged(
    start_nats: StartNats,
) -> None:
    """PR1: clients reconnect by themselves, nothing acknowledged is lost, the restart is counted."""
    server = await start_nats()
    await add_stream(server)
    counted = RESTARTS.labels("nats-server")._value.get()
    async with connected(server.log_url) as log:
        first = await append_until_stored(log, b"before")
        pid = server.pid
        assert pid

        os.kill(pid, signal.SIGKILL)
        await until(lambda: server.restarts == 1 and server.healthy)

        assert server.pid not in (None, pid)
        assert await append_until_stored(log, b"after") == first + 1
        assert (await log.jetstream().get_msg("FORGE_VECTOR", first)).data == b"before"
    assert RESTARTS.labels("nats-server")._value.get() == counted + 1


async def test_an_unsupervised_server_stays_down_until_it_is_started_again(start_nats: StartNats) -> None:
    server = await start_nats(supervised=False)
    url = server.log_url

    await server.child.kill()
    assert (server.pid, server.healthy) == (None, False)
    await server.start()

    assert server.log_url == url
    async with connected(url) as log:
        assert log.is_connected


async def test_a_server_that_hangs_is_restarted(start_nats: StartNats) -> None:
    """PR7: gone for longer than the bound is as bad as dead."""
    server = await start_nats(bounds=Bounds(interval_s=0.1, silent_s=0.5, stop_s=0.5))
    pid = server.pid
    assert pid

    os.kill(pid, signal.SIGSTOP)
    await until(lambda: server.restarts == 1 and server.healthy)

    assert not running(pid)


@pytest.mark.skipif(syscalls.unavailable() is not None, reason=str(syscalls.unavailable()))
async def test_a_server_whose_disk_failed_once_is_restarted_and_takes_writes_again(
    start_nats: StartNats,
) -> None:
    """PR1 and PR7: one failed fsync wedges a stream until a restart; only /healthz tells."""
    server = await start_nats()
    await add_stream(server)
    async with connected(server.log_url) as log:
        first = await append_until_stored(log, b"before")
        assert server.pid
        async with syscalls.failing_syscalls(server.pid):
            with pytest.raises(TimeoutError):
                await log.jetstream().publish(SUBJECT, b"wedged", timeout=1)
            await until(lambda: server.restarts == 1 and server.healthy)

        assert await append_until_stored(log, b"after") > first
        assert (await log.jetstream().get_msg("FORGE_VECTOR", first)).data == b"before"


@pytest.mark.root
@pytest.mark.skipif(disk.unavailable() is not None, reason=str(disk.unavailable()))
async def test_a_server_on_a_full_disk_takes_writes_again_when_there_is_space() -> None:
    """PR7: without a restart by hand."""
    with disk.small_tmpfs(16 << 20) as small:
        async with NatsServer(small.path) as server:
            await add_stream(server)
            async with connected(server.log_url) as log:
                first = await append_until_stored(log, b"before")
                ballast = small.fill(leave_bytes=16 << 10)
                with pytest.raises(TimeoutError):
                    await append_until_refused(log, bytes(8 << 10))
                await until(lambda: server.restarts >= 1)
                ballast.unlink()

                assert await append_until_stored(log, b"after") > first
                assert (await log.jetstream().get_msg("FORGE_VECTOR", first)).data == b"before"


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
    bounds = Bounds(start_s=5, interval_s=0.1, backoff_max_s=0.2)
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


async def test_credentials_are_private_and_kept_per_data_directory(start_nats: StartNats, tmp_path: Path) -> None:
    """PR6: random, readable by the owner alone, the same after a restart of the node."""
    server = await start_nats(tmp_path / "a")
    other = await start_nats(tmp_path / "b")
    passwords = {url.split(":")[2] for url in (server.log_url, server.read_url, server.live_url, other.log_url)}

    assert len(passwords) == 4
    for name in ("nats.conf", "passwords.json", "nats-server.log"):
        assert (tmp_path / "a" / "nats" / name).stat().st_mode & 0o777 == 0o600
    await server.close()
    again = NatsServer(tmp_path / "a")
    async with again:
        assert again.log_url.split("@")[0] == server.log_url.split("@")[0]


REFUSAL = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')
PUBLISH = {
    "forge.log.vector.0": "log",
    "forge.live.vector.0": "log live",
    "forge.cmd.vector.0": "live",
    "_INBOX_log.x": "",
    "_INBOX_read.x": "",
    "_INBOX_live.x": "live",
    "$JS.API.INFO": "admin log read",
    "$JS.API.STREAM.CREATE.X": "admin",
    "$JS.API.STREAM.UPDATE.FORGE_VECTOR": "admin",
    "$JS.API.STREAM.DELETE.FORGE_VECTOR": "",
    "$JS.API.STREAM.PURGE.FORGE_VECTOR": "",
    "$JS.API.STREAM.MSG.DELETE.FORGE_VECTOR": "",
    "$JS.API.STREAM.RESTORE.FORGE_VECTOR": "",
    "$JS.API.STREAM.INFO.FORGE_VECTOR": "admin log read",
    "$JS.API.STREAM.MSG.GET.FORGE_VECTOR": "log read",
    "$JS.API.DIRECT.GET.FORGE_VECTOR": "log read",
    "$JS.API.DIRECT.GET.FORGE_VECTOR.forge.log.vector.0": "log read",
    "$JS.API.CONSUMER.CREATE.FORGE_VECTOR": "",
    "$JS.API.CONSUMER.CREATE.FORGE_VECTOR.spy.>": "",
    "$JS.API.CONSUMER.DURABLE.CREATE.FORGE_VECTOR.spy": "",
    "$SYS.REQ.SERVER.PING": "",
    "anything.else": "",
}
SUBSCRIBE = {
    "forge.log.>": "",
    "forge.log.vector.0": "",
    "forge.>": "",
    ">": "",
    "*.log.>": "",
    "$JS.>": "",
    "$SYS.>": "",
    "forge.live.>": "live",
    "forge.cmd.>": "live",
    "_INBOX_log.>": "log",
    "_INBOX_read.>": "read",
    "_INBOX_live.>": "live",
    "_INBOX_admin.>": "admin",
    "_INBOX.>": "",
}


@pytest.mark.parametrize("user", ["admin", "log", "read", "live"])
async def test_each_user_may_do_what_its_part_needs_and_nothing_else(nats_server: NatsServer, user: str) -> None:
    """PR6 and G9: only `log` appends, nobody deletes, nobody hears the log or another user's answers."""
    url = getattr(nats_server, f"{user}_url")
    errors: list[Exception] = []
    expected = {("publish", s.lower()) for s, users in PUBLISH.items() if user not in users.split()}
    expected |= {("subscription", s.lower()) for s, users in SUBSCRIBE.items() if user not in users.split()}

    async with connected(url, errors=errors) as client:
        for subject in PUBLISH:
            await client.publish(subject, b"{}")
        for subject in SUBSCRIBE:
            await client.subscribe(subject)
        await client.flush()  # every refusal comes before the answer to this ping
        await until(lambda: len(errors) >= len(expected))

    refused = {REFUSAL.search(str(error).lower()) for error in errors}
    assert {match and match.groups() for match in refused} == expected


async def test_followers_read_in_batches_with_their_own_user(start_nats: StartNats) -> None:
    """The grants are enough: append, batched direct get, last by subject, hint, command and answer."""
    server = await start_nats()
    await add_stream(server)
    async with (
        connected(server.log_url) as log,
        connected(server.read_url) as read,
        connected(server.live_url) as live,
    ):
        for body in (b"1", b"2", b"3"):
            await log.jetstream().publish(SUBJECT, body)
        inbox = await read.subscribe(read.new_inbox())
        request = b'{"seq":2,"batch":10,"next_by_subj":"forge.log.vector.0"}'
        await read.publish("$JS.API.DIRECT.GET.FORGE_VECTOR", request, reply=inbox.subject)
        batch = [(await inbox.next_msg(5)).data for _ in range(2)]
        last = await read.jetstream().get_last_msg("FORGE_VECTOR", SUBJECT, direct=True)
        hints = await live.subscribe("forge.live.>")

        async def answer(message: Any) -> None:
            await message.respond(b"done")

        await live.subscribe("forge.cmd.>", cb=answer)
        await live.flush()
        await log.publish("forge.live.vector.0", b"1.3")

        assert batch == [b"2", b"3"]
        assert last.data == b"3"
        assert (await hints.next_msg(5)).data == b"1.3"
        assert (await live.request("forge.cmd.vector.0", b"{}", timeout=5)).data == b"done"
