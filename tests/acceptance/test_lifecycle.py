"""A node's life: one per data directory, stopped within a bound, no child behind, and in three processes."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from forge.datadir import read_root_token, read_runtime
from forge.stack import launch
from forge.stack.nats import NatsServer
from tests.acceptance.asking import cid_of, files_below, lookup, present, until, upload
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import FORGE, GONE_WAIT_S, NodeProcess, users_of
from tests.acceptance.odd_worker import OddWorker
from tests.conftest import StartNats
from tests.faults.killer import is_alive, kill

SHUTDOWN_S = 3
STOP_SPARE_S = 7.0  # nats-server and the worker get 5 s each, at the same time as nothing else
CONFLICT = 5


async def children_of(node: NodeProcess) -> list[int]:
    """Return the pids of all children of a node, as soon as it has both."""
    found: list[int | None] = []

    async def both() -> bool:
        found[:] = [node.child("nats"), node.child("worker")]
        return None not in found

    await until(both, "nats-server and the built-in worker run")
    return [pid for pid in found if pid is not None]


@asynccontextmanager
async def connection(node: NodeProcess, sent: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """A connection on which `sent` was sent and nothing follows."""
    address = urlsplit(node.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(sent)
        await writer.drain()
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_sigterm_stops_a_node_within_its_bound_whatever_is_open(start_node: StartNode) -> None:
    """PR7: an idle connection, half a request, and an upload in flight do not hold it; nothing of them is kept."""
    node = await start_node(extra={"FORGE_SHUTDOWN_S": str(SHUTDOWN_S)})
    content = b"x" * 200_000
    head = (
        f"POST /api/v1/upload HTTP/1.1\r\nHost: forge\r\nAuthorization: Bearer {node.token}\r\n"
        f"X-File-Hash: {cid_of(content)}\r\nX-Embedding-Kind: text\r\nContent-Length: {len(content)}\r\n\r\n"
    ).encode()
    async with node.http() as http:
        await upload(http, b"kept")
        await present(http, b"kept")
    children = await children_of(node)
    async with (
        connection(node, b"") as idle,
        connection(node, b"GET /healthz HTTP/1.1\r\nHost: fo") as half,
        connection(node, head + content[:150_000]) as uploading,
    ):

        async def staged() -> bool:
            return bool(list(node.settings.vector_temp_dir.iterdir()))

        await until(staged, "the upload is on its way to the disk")
        started = time.monotonic()
        assert await node.stop() == 0
        took_s = time.monotonic() - started
        print(f"stopped after {took_s:.1f} s")
        assert took_s < SHUTDOWN_S + STOP_SPARE_S
        for reader in (idle, half, uploading):
            with contextlib.suppress(ConnectionError):
                assert b" 202 " not in await reader.read()
    assert not any(is_alive(pid) for pid in children)
    assert read_runtime(node.data) is None
    await node.start()
    assert list(node.settings.vector_temp_dir.iterdir()) == []
    async with node.http() as http:
        assert await lookup(http, b"kept", content) == ["present", "missing"]
        assert (await upload(http, content)).status_code == 202


async def test_kill_9_leaves_no_child_and_the_next_start_works(start_node: StartNode) -> None:
    """The kernel ends the children with the node; what was accepted is there after the restart (PR1)."""
    node = await start_node()
    children = await children_of(node)
    async with node.http() as http:
        assert (await upload(http, b"accepted")).status_code == 202

    await kill(node.pid)

    async def gone() -> bool:
        return not any(is_alive(pid) for pid in children) and users_of(node.data) == []

    await until(gone, "no process of the node is left", GONE_WAIT_S)
    await node.start()
    async with node.http() as http:
        await present(http, b"accepted")


async def test_a_second_node_on_the_same_data_is_refused_with_the_pid(start_node: StartNode) -> None:
    """Exit code 5, and the four lines name who has the directory; the first one is not disturbed."""
    node = await start_node()

    second = await node.cli("up", "--listen", "127.0.0.1:0")

    assert second.code == CONFLICT
    assert str(node.pid) in second.err
    assert f"kill {node.pid}" in second.err
    assert read_runtime(node.data) is not None
    async with node.http() as http:
        assert (await http.get("/readyz")).status_code == 200


async def test_a_taken_address_ends_the_start_with_a_reason_and_no_child(start_node: StartNode) -> None:
    node = await start_node()
    other = {"FORGE_DATA_DIR": str(node.home / "other"), "FORGE_CACHE_DIR": str(node.home / "other-cache")}
    command = NodeProcess(node.home, extra=other)

    refused = await command.cli("up", "--listen", urlsplit(node.url).netloc)

    assert refused.code == 1
    assert "--listen" in refused.err
    assert users_of(node.home / "other") == []


@asynccontextmanager
async def forge_process(environ: dict[str, str], home: Path, *arguments: str) -> AsyncIterator[Path]:
    """Run `forge` with `arguments` until the block ends, then stop it with SIGTERM; yields its standard output."""
    output = home / f"{arguments[0]}.json"
    with output.open("wb") as out, (home / f"{arguments[0]}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(FORGE), *arguments, "--json"),
            stdout=out,
            stderr=log,
            env=environ,
            cwd=home,
        )

    async def announced() -> bool:
        assert process.returncode is None, (home / f"{arguments[0]}.log").read_text()
        return output.read_bytes().endswith(b"\n")

    try:
        await until(announced, f"forge {arguments[0]} says that it runs")
        yield output
        os.kill(process.pid, signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def split_environ(home: Path, server: NatsServer, worker: OddWorker) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "FORGE_DATA_DIR": str(home / "data"),
        "FORGE_CACHE_DIR": str(home / "cache"),
        "FORGE_LOG_FORMAT": "json",
        "FORGE_NATS_URL": server.log_url,
        "FORGE_NATS_READ_URL": server.read_url,
        "FORGE_NATS_LIVE_URL": server.live_url,
        "FORGE_NATS_ADMIN_URL": server.admin_url,
        "FORGE_NATS_MONITOR_URL": server.monitor_url,
        "FORGE_VECTOR_WORKER_URL": worker.url,
    }


async def test_serve_and_worker_embed_do_an_upload_together_through_the_command_door(
    start_nats: StartNats, tmp_path: Path
) -> None:
    """Three processes: nats-server, `forge serve`, `forge worker embed`; the worker may come and go."""
    server = await start_nats()
    files = [f"good {number}".encode() for number in range(50)]
    async with OddWorker() as worker:
        environ = split_environ(tmp_path, server, worker)
        async with forge_process(environ, tmp_path, "serve", "--listen", "127.0.0.1:0"):
            runtime = read_runtime(tmp_path / "data")
            assert runtime
            headers = {"Authorization": f"Bearer {read_root_token(tmp_path / 'data')}"}
            async with httpx2.AsyncClient(base_url=runtime.url, headers=headers, trust_env=False, timeout=60) as http:
                for content in files[:25]:
                    assert (await upload(http, content)).status_code == 202
                assert set(await lookup(http, *files[:25])) == {"processing"}
                async with forge_process(environ, tmp_path, "worker", "embed"):
                    await present(http, *files[:25])
                    for content in files[25:]:
                        assert (await upload(http, content)).status_code == 202
                    await present(http, *files)
                assert (await upload(http, b"good later")).status_code == 202
                async with forge_process(environ, tmp_path, "worker", "embed"):
                    await present(http, b"good later")
    assert worker.calls == {"good": 51}
    assert [path for path in files_below(tmp_path / "cache") if not path.endswith(".blob")] == []


@pytest.mark.parametrize("command", [("serve",), ("worker", "embed")])
async def test_serve_and_worker_say_that_they_need_a_server(tmp_path: Path, command: tuple[str, ...]) -> None:
    refused = await NodeProcess(tmp_path).cli(*command)

    assert refused.code == 2
    assert "FORGE_NATS_URL is not set" in refused.err


async def test_a_partition_that_was_closed_because_nobody_used_it_does_not_make_the_node_unready(
    start_node: StartNode,
) -> None:
    """DESIGN 4: partitions open on first use and close when idle; asking whether the node is ready is a use."""
    node = await start_node(extra={"FORGE_PARTITION_IDLE": "0.2"})
    async with node.http() as http:

        async def none_is_open() -> bool:
            return bool((await http.get("/status")).json()["partitions"] == [])

        for _ in range(3):
            async with asyncio.timeout(30):
                while not await none_is_open():
                    pass
            assert (await http.get("/readyz")).status_code == 200
