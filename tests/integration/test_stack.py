"""The local stack against real programs: what is promised when they crash, wedge, hang, or lose their parent."""

import os
import signal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from nats.aio.client import Client

from forge.stack.child import RESTARTS, Bounds
from forge.stack.nats import NatsServer
from tests.conftest import StartNats
from tests.faults import disk, syscalls
from tests.nats_client import SUBJECT, add_stream, append_until_stored, connected
from tests.waiting import running, until


async def append_until_refused(client: Client, body: bytes) -> None:
    for _ in range(10):
        await client.jetstream().publish(SUBJECT, body, timeout=1)


async def varz(server: NatsServer) -> dict[str, Any]:
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
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
    await until(lambda: server.restarts >= 1 and server.healthy)  # on a slow machine the next one may seem to hang too

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
