"""What a node does when its log stalls, goes away, fails to sync, or comes back shorter."""

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from forge.stack.nats import NatsServer
from schemas.problems import OUTCOME_UNKNOWN, PARTITION_STOPPED, UNAVAILABLE
from tests.acceptance.asking import cid_of, lookup, present, ready_again, taken, until, upload
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.acceptance.nothing_lost import read_log
from tests.conftest import StartNats
from tests.faults import syscalls
from tests.faults.killer import is_alive, stalled

ACK_TIMEOUT_MS = 1500
RECOVERY_S = 60.0
STALL_S_MAX = 20.0  # silent for ten, five more to end by itself
DATA_FAULT = 7
ACK_TIMEOUT = {"FORGE_VECTOR_QUEUE_ACK_TIMEOUT_MS": str(ACK_TIMEOUT_MS)}


async def refused_while_away(
    http: httpx2.AsyncClient, known: bytes, seconds: float, *, back: Callable[[], bool] = lambda: False
) -> dict[bytes, str]:
    """Write and read for `seconds` without a log, or until it is `back`; return what was refused how.

    Reads must go on all the time.
    """
    refused: dict[bytes, str] = {}
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        content = f"refused {len(refused)}".encode()
        answer = await upload(http, content)  # the client waits 5 s at most: reliability B4
        if answer.status_code == 202 and back():
            return refused | {content: OUTCOME_UNKNOWN.uri}
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["type"] in (OUTCOME_UNKNOWN.uri, UNAVAILABLE.uri)
        refused[content] = answer.json()["type"]
        assert await lookup(http, known) == ["present"]
        assert (await http.get(f"/api/v1/embeddings/text/{cid_of(known)}")).status_code == 200
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/status")).status_code == 200
    ready = await http.get("/readyz")
    if ready.status_code == 200 and back():
        return refused
    assert ready.status_code == 503
    assert next(check["name"] for check in ready.json()["checks"] if not check["ok"]) == "log"
    return refused


async def goes_on(node: NodeProcess, http: httpx2.AsyncClient, refused: dict[bytes, str]) -> None:
    """Wait until writes are taken again, then send what was refused again; nobody restarts anything.

    PR3: before it is sent again, no content that was refused for certain is in the log.
    """
    await ready_again(http, RECOVERY_S)
    await taken(http, b"after", within_s=RECOVERY_S)
    logged = await read_log(node)
    certain = [content for content, kind in refused.items() if kind != OUTCOME_UNKNOWN.uri]
    assert [content for content in certain if ("text", cid_of(content)) in logged.accepted] == []
    print(f"{len(refused)} writes were refused, {len(certain)} of them for certain")
    await taken(http, *refused, within_s=RECOVERY_S)


async def each_is_in_the_log_once(node: NodeProcess, *contents: bytes) -> None:
    """PR3, PR5: however often a write was tried and however it was answered, there is one record of it."""
    logged = await read_log(node)
    assert {("text", cid_of(content)) for content in contents} == set(logged.accepted)
    assert [key for key, at in logged.accepted.items() if len(at) != 1] == []
    assert [key for key, at in logged.stored.items() if len(at) != 1] == []
    verified = await node.cli("log", "verify", "--json")
    assert verified.code == 0, verified.out + verified.err


DOWN_S = [pytest.param(8.0), pytest.param(30.0, marks=pytest.mark.long)]


@pytest.mark.parametrize("seconds", DOWN_S)
async def test_a_stalled_nats_server_costs_503s_and_nothing_else(start_node: StartNode, seconds: float) -> None:
    """PR1, PR3, PR7: a paused server (past ten seconds the stack replaces it); late originals are stored once."""
    node = await start_node(extra=ACK_TIMEOUT)
    async with node.http() as http:
        before = [f"before {number}".encode() for number in range(20)]
        for content in before:
            assert (await upload(http, content)).status_code == 202
        await present(http, *before)
        pid = node.child("nats")
        assert pid
        with stalled(pid):
            refused = await refused_while_away(http, before[0], seconds, back=lambda: not is_alive(pid))
            if seconds > STALL_S_MAX:
                assert not is_alive(pid)
        await goes_on(node, http, refused)
    await each_is_in_the_log_once(node, *before, *refused, b"after")


@asynccontextmanager
async def node_on_a_server(
    start_node: StartNode, start_nats: StartNats, store: Path
) -> AsyncIterator[tuple[NatsServer, NodeProcess, httpx2.AsyncClient]]:
    """A node on a NATS server that it did not start and does not supervise."""
    server = await start_nats(store, supervised=False)
    urls = {
        "FORGE_NATS_URL": server.log_url,
        "FORGE_NATS_READ_URL": server.read_url,
        "FORGE_NATS_LIVE_URL": server.live_url,
        "FORGE_NATS_ADMIN_URL": server.admin_url,
        "FORGE_NATS_MONITOR_URL": server.monitor_url,
    }
    node = await start_node(extra=ACK_TIMEOUT | urls)
    async with node.http() as http:
        yield server, node, http


@pytest.mark.parametrize("seconds", DOWN_S)
async def test_a_nats_server_that_is_down_for_a_while_costs_503s_and_nothing_else(
    start_node: StartNode, start_nats: StartNats, tmp_path: Path, seconds: float
) -> None:
    """PR1, PR7: the node reconnects by itself, and what was accepted or has been refused is there once."""
    async with node_on_a_server(start_node, start_nats, tmp_path / "log") as (server, node, http):
        before = [f"before {number}".encode() for number in range(20)]
        for content in before:
            assert (await upload(http, content)).status_code == 202
        await present(http, *before)
        await server.stop()
        refused = await refused_while_away(http, before[0], seconds)
        await server.start()
        await goes_on(node, http, refused)
        await each_is_in_the_log_once(node, *before, *refused, b"after")


async def test_a_failed_fsync_of_the_log_restarts_its_server_and_loses_nothing(start_node: StartNode) -> None:
    """PR1, reliability A2: after EIO the server would be wedged for ever and say nothing to its clients."""
    if reason := syscalls.unavailable():
        pytest.skip(f"NOT TESTED: a failed fsync of the log: {reason}")
    node = await start_node(extra=ACK_TIMEOUT)
    async with node.http() as http:
        before = [f"before {number}".encode() for number in range(20)]
        for content in before:
            assert (await upload(http, content)).status_code == 202
        await present(http, *before)
        pid = node.child("nats")
        assert pid
        tried: dict[bytes, str] = {}
        async with syscalls.failing_syscalls(pid) as injected:
            while is_alive(pid):
                content = f"tried {len(tried)}".encode()
                answer = await upload(http, content)
                assert answer.status_code in (202, 503), answer.text
                tried[content] = answer.json().get("type", OUTCOME_UNKNOWN.uri)
                assert await lookup(http, before[0]) == ["present"]
            print(f"{injected.count()} fsyncs failed, {len(tried)} writes were tried meanwhile")
            assert injected.count() > 0
        await goes_on(node, http, tried)
        restarted = node.child("nats")
        assert restarted not in (None, pid)
    await each_is_in_the_log_once(node, *before, *tried, b"after")


def replace_store(store: Path, older: Path) -> None:
    """Put the older copy of a log in the place of the present one; credentials stay."""
    shutil.rmtree(store / "jetstream")
    shutil.copytree(older, store / "jetstream")


async def refuses_writes_and_says_why(node: NodeProcess, http: httpx2.AsyncClient, known: bytes) -> None:
    """Assert the whole behaviour of a node whose log ends before what it knows."""

    async def stopped() -> bool:
        answer = await upload(http, b"written too late")
        return answer.status_code == 503 and answer.json()["type"] == PARTITION_STOPPED.uri

    await until(stopped, "writes are stopped")
    answer = await upload(http, b"written too late")
    assert answer.headers["Retry-After"]
    assert "ends at" in answer.json()["detail"]
    assert "forge rebuild" in answer.json()["detail"]
    assert await lookup(http, known, b"written too late") == ["present", "missing"]
    assert (await http.get(f"/api/v1/embeddings/text/{cid_of(known)}")).status_code == 200
    ready = await http.get("/readyz")
    assert ready.status_code == 503
    assert "ends at" in next(check["value"] for check in ready.json()["checks"] if not check["ok"])
    doctor = await node.cli("doctor", "--json")
    assert doctor.code == DATA_FAULT
    assert any("ends at" in check["value"] for check in json.loads(doctor.out)["checks"] if check["state"] == "fail")
    verified = await node.cli("log", "verify", "--json")
    assert verified.code == DATA_FAULT
    assert "ends at" in verified.out


async def test_a_log_that_went_back_stops_writes_and_a_rebuild_accepts_it(start_node: StartNode) -> None:
    """PR3, PR4: no sequence is used twice; the operator decides, by one command that the refusal names."""
    node = await start_node()
    store, older = node.data / "nats", node.home / "older"
    async with node.http() as http:
        await upload(http, b"early")
        await present(http, b"early")
    assert await node.stop() == 0
    shutil.copytree(store / "jetstream", older)
    await node.start()
    async with node.http() as http:
        await upload(http, b"late")
        await present(http, b"late")
    assert await node.stop() == 0

    replace_store(store, older)
    await node.start(until_ready=False)
    await node.serving()
    async with node.http() as http:
        await refuses_writes_and_says_why(node, http, b"late")
    assert await node.stop() == 0

    verified = await node.cli("log", "verify", "--json")
    assert verified.code == DATA_FAULT, verified.out
    rebuilt = await node.cli("rebuild", "--json")
    assert rebuilt.code == 0, rebuilt.err
    await node.start()
    async with node.http() as http:
        assert await lookup(http, b"early", b"late") == ["present", "missing"]
        assert (await upload(http, b"late")).status_code == 202
        await present(http, b"late")


async def test_a_log_that_was_lost_altogether_stops_writes(start_node: StartNode) -> None:
    """PR3: an empty log under databases that know records is no fresh start; verify finds it too."""
    node = await start_node()
    async with node.http() as http:
        await upload(http, b"early")
        await present(http, b"early")
    assert await node.stop() == 0
    shutil.rmtree(node.data / "nats" / "jetstream")
    await node.start(until_ready=False)
    await node.serving()
    async with node.http() as http:
        await refuses_writes_and_says_why(node, http, b"early")


async def test_a_log_that_goes_back_under_a_running_node_stops_the_next_write(
    start_node: StartNode, start_nats: StartNats, tmp_path: Path
) -> None:
    """PR3, reliability 0.3: a server that comes back with less is noticed before anything is written to it."""
    store, older = tmp_path / "log" / "nats", tmp_path / "older"
    async with node_on_a_server(start_node, start_nats, tmp_path / "log") as (server, node, http):
        await upload(http, b"early")
        await present(http, b"early")
        await server.stop()
        await asyncio.to_thread(shutil.copytree, store / "jetstream", older)
        await server.start()
        await ready_again(http)
        await taken(http, b"late")
        await server.stop()
        newest = tmp_path / "newest"
        await asyncio.to_thread(os.rename, store / "jetstream", newest)
        await asyncio.to_thread(shutil.copytree, older, store / "jetstream")
        await server.start()
        await refuses_writes_and_says_why(node, http, b"late")

        await server.stop()
        await asyncio.to_thread(replace_store, store, newest)
        await server.start()
        await ready_again(http)
        await taken(http, b"after")
        await each_is_in_the_log_once(node, b"early", b"late", b"after")
