"""Replicas that follow a whole node: what it knows of them, and what it makes them do."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from click.testing import CliRunner

from forge.cli import main
from forge.client import ForgeClient
from forge.client.retry import Retry
from forge.client.transport import Transport
from forge.datadir import read_root_token
from forge.embedded import running
from forge.replica import Replica, Stale
from forge.replica.errors import FileRefused
from forge.replica.follower import Follower
from schemas.ids import Position
from schemas.replicas import ReplicaView
from schemas.scopes import Scope
from schemas.settings import Settings
from tests.conftest import ServedNode
from tests.notes import eventually

WAIT_S = 60.0
DB = "notes"


def environ(tmp_path: Path) -> dict[str, str]:
    """Return the settings of the node of these tests."""
    folders = {"FORGE_DATA_DIR": str(tmp_path / "node"), "FORGE_CACHE_DIR": str(tmp_path / "cache")}
    return folders | {"FORGE_REPLICA_HEARTBEAT_S": "0.1", "FORGE_LISTEN": "127.0.0.1:0"}


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[ServedNode]:
    """A node with one document of two records."""
    settings = Settings.load(environ(tmp_path))
    async with running(settings, listen="127.0.0.1:0", embed=False) as node:
        found = ServedNode(node.url, read_root_token(settings.data_dir))
        async with ForgeClient(found.url, found.token) as forge:
            await forge.documents.create(DB)
            await forge.db(DB).exec("CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)")
            await forge.db(DB).exec("INSERT INTO note (body) VALUES ('one')")
        yield found


def client(node: ServedNode) -> httpx2.AsyncClient:
    """Return a client that may do everything."""
    return httpx2.AsyncClient(base_url=node.url, headers={"authorization": f"Bearer {node.token}"}, timeout=WAIT_S)


def transport(node: ServedNode, token: str = "") -> Transport:
    """Return the way to a node of somebody who follows."""
    return Transport(node.url, token or node.token, timeout_s=WAIT_S, retry=Retry())


async def seen(node: ServedNode, wanted: Callable[[list[ReplicaView]], bool]) -> list[ReplicaView]:
    """Wait until the node knows what is wanted; return it."""
    async with asyncio.timeout(WAIT_S), ForgeClient(node.url, node.token) as forge:
        while True:
            found = [one async for one in forge.replicas.all(DB)]
            if wanted(found):
                return found
            await asyncio.sleep(0.02)


async def following(follower: Follower, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` while a follower follows."""
    await follower.open()
    task = asyncio.create_task(follower.follow())
    try:
        await work()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await follower.close()
        await follower._transport.http.aclose()


async def audit(node: ServedNode, action: str) -> list[dict[str, Any]]:
    """Return the lines of the audit about something."""
    async with client(node) as http:
        entries = (await http.get("/api/v1/admin/audit")).json()["entries"]
    return [entry for entry in entries if entry["action"] == action]


async def test_a_replica_is_known_by_where_it_really_stands(served: ServedNode, tmp_path: Path) -> None:
    """K4.1, K4.5, K6.1: live and without lag as soon as it has what was written, also in the metrics."""
    follower = Follower(transport(served), DB, tmp_path / "copy.db")

    async def work() -> None:
        async with ForgeClient(served.url, served.token) as forge:
            written = await forge.db(DB).exec("INSERT INTO note (body) VALUES ('two')")
            (found,) = await seen(served, lambda all_: [one.position for one in all_] == [str(written.position)])
            metrics = await forge.metrics()
        assert (found.state, found.lag_records, found.lag_bytes, found.lag_s) == ("live", 0, 0, 0.0)
        assert (found.kind, found.head, found.holds_log) == ("file", str(written.position), False)
        assert 'forge_replicas{state="live"} 1.0' in metrics
        assert f'forge_replica_lag_records{{replica="{DB}/{found.replica_id}"}} 0.0' in metrics

    await following(follower, work)


async def test_reports_survive_a_restart_and_the_name_stays(tmp_path: Path) -> None:
    """K4.1: what was heard is an event of the control plane; a position never goes back; lag is measured."""
    settings = Settings.load(environ(tmp_path))
    async with running(settings, listen="127.0.0.1:0", embed=False) as node:
        served = ServedNode(node.url, read_root_token(settings.data_dir))
        async with ForgeClient(served.url, served.token) as forge:
            await forge.documents.create(DB)
            await forge.db(DB).exec("CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)")
        follower = Follower(transport(served), DB, tmp_path / "copy.db")

        async def work() -> None:
            await seen(served, lambda all_: [one.state for one in all_] == ["live"])

        await following(follower, work)
        before = await seen(served, bool)
        async with ForgeClient(served.url, served.token) as forge:
            for number in range(3):
                await forge.db(DB).exec("INSERT INTO note (body) VALUES (?)", [str(number)])
    async with running(settings, listen="127.0.0.1:0", embed=False) as node:
        (found,) = await seen(ServedNode(node.url, served.token), bool)
        assert (found.replica_id, found.position) == (before[0].replica_id, before[0].position)
        assert found.lag_records == 3
        assert (found.lag_bytes or 0) > 0
        assert (found.lag_s or 0) > 0
        assert found.holds_log


async def test_who_is_evicted_or_recalled_takes_a_new_copy_by_itself(served: ServedNode, tmp_path: Path) -> None:
    """K4.3, K4.5: over HTTP and by command, with the same JSON and a line in the audit."""
    follower = Follower(transport(served), DB, tmp_path / "copy.db", wait_ms=200)

    async def work() -> None:
        (first,) = await seen(served, lambda all_: [one.state for one in all_] == ["live"])
        async with ForgeClient(served.url, served.token) as forge:
            told = await forge.replicas.evict(DB, first.replica_id, "its disk is old")
        assert (told.state, told.holds_log, told.reason) == ("evicted", False, "its disk is old")
        (second,) = await seen(served, lambda all_: all_[0].copy_id != first.copy_id and all_[0].state == "live")
        assert second.replica_id == first.replica_id
        args = ["replica", "reseed", DB, first.replica_id, "--reason", "to see", "--json"]
        env = {"FORGE_URL": served.url, "FORGE_TOKEN": served.token}
        said = await asyncio.to_thread(CliRunner().invoke, main, args, env=env, standalone_mode=False)
        assert json.loads(said.output)["state"] == "needs_reseed"
        await seen(served, lambda all_: all_[0].copy_id != second.copy_id and all_[0].state == "live")
        said = await asyncio.to_thread(
            CliRunner().invoke, main, ["replica", "list", "--json"], env=env, standalone_mode=False
        )
        async with client(served) as http:
            over_http = (await http.get("/api/v1/replicas")).json()["replicas"]
        stays = ("db_id", "replica_id", "copy_id", "state", "position", "holds_log")
        (by_command,) = json.loads(said.output)["replicas"]
        assert by_command.keys() == over_http[0].keys()
        assert [by_command[name] for name in stays] == [over_http[0][name] for name in stays]

    await following(follower, work)
    assert follower.status.reseeds == 2
    assert [line["detail"]["reason"] for line in await audit(served, "replica.evicted")] == ["its disk is old"]
    assert len(await audit(served, "replica.recalled")) == 1


async def test_a_replica_may_be_told_to_stop_instead(served: ServedNode, tmp_path: Path) -> None:
    """K4.5: a new copy is taken only where that is allowed."""
    follower = Follower(transport(served), DB, tmp_path / "copy.db", reseeds=False)
    await follower.open()
    await follower.catch_up()
    (known,) = await seen(served, bool)
    async with ForgeClient(served.url, served.token) as forge:
        await forge.replicas.evict(DB, known.replica_id)
    with pytest.raises(FileRefused, match="was evicted") as refused:
        await follower.catch_up()
    assert refused.value.reason == "out-of-date"
    await follower.close()
    await follower._transport.http.aclose()


async def test_reads_that_may_be_too_old_are_refused_if_asked(tmp_path: Path) -> None:
    """K4.5: as long as the node answers there is nothing to refuse, and when it is away it is soon."""
    settings = Settings.load(environ(tmp_path))
    async with AsyncExitStack() as closing:
        async with running(settings, listen="127.0.0.1:0", embed=False) as node:
            token = read_root_token(settings.data_dir)
            async with ForgeClient(node.url, token) as forge:
                await forge.documents.create(DB)
                await forge.db(DB).exec("CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)")
            bounded = Replica(node.url, token, DB, tmp_path / "bounded.db", max_staleness_s=1.0)
            await closing.enter_async_context(bounded)
            await readable(bounded)
        await eventually(lambda: bounded.staleness_s > 1)
        with pytest.raises(Stale, match="may lack what is older than 1 s"):
            await bounded.read("SELECT count(*) FROM note")


async def readable(replica: Replica) -> None:
    """Wait until a replica answers; when the machine stalls, nothing is heard for too long."""
    async with asyncio.timeout(WAIT_S):
        while True:
            with suppress(Stale):
                await replica.read("SELECT count(*) FROM note")
                return
            await asyncio.sleep(0.02)


async def test_without_the_scope_a_replica_follows_untracked(served: ServedNode, tmp_path: Path) -> None:
    """PR6, K4.1: who may read cannot keep the log; who may report is tracked."""
    for action, tracked in (("query.read", False), ("replica.report", True)):
        async with ForgeClient(served.url, served.token) as forge:
            scopes = [Scope(db_id=DB, action=one) for one in {"query.read", action}]
            token = (await forge.tokens.mint(action, scopes)).token
        follower = Follower(transport(served, token), DB, tmp_path / f"{action}.db")
        await follower.open()
        await follower.catch_up()
        assert follower.file.cursor.position == Position(1, 2)
        await follower.close()
        await follower._transport.http.aclose()
        async with ForgeClient(served.url, served.token) as forge:
            assert (len([one async for one in forge.replicas.all(DB)]) == 1) is tracked


async def test_reports_of_their_own_are_checked(served: ServedNode) -> None:
    """K4.1, K4.2: another history is 409, beyond the head 416, a copy that was given up 410, nonsense 400."""
    base = f"/api/v1/db/{DB}/replicas/reader-1"
    body = {"copy_id": "0" * 16, "kind": "reader", "position": "1.1"}
    async with client(served) as http:
        assert (await http.get("/api/v1/db/no-such/replicas")).status_code == 404
        assert (await http.put(base, json=body | {"position": "1.3"})).status_code == 416
        assert (await http.put(base, json=body | {"position": "7.1"})).status_code == 409
        assert (await http.put(base, json=body | {"position": "x"})).status_code == 400
        assert (await http.put(f"/api/v1/db/{DB}/replicas/A_B", json=body)).status_code == 400
        assert (await http.put("/api/v1/db/nowhere/replicas/a", json=body)).status_code == 404
        assert (await http.put(base, json=body | {"copy_id": "0"})).status_code == 400
        answer = await http.put(base, json=body)
        assert (answer.status_code, answer.json()["position"], answer.json()["lag_records"]) == (200, "1.1", 1)
        assert answer.json()["holds_log"]
        await http.put(base, json=body | {"position": "1.2"})
        assert (await http.put(base, json=body)).json()["position"] == "1.2"
        assert (await http.put(base, json=body | {"hash": "f" * 32})).status_code == 409
        (found,) = (await http.get(f"/api/v1/db/{DB}/replicas")).json()["replicas"]
        assert (found["state"], found["holds_log"]) == ("fenced", False)
        assert (await http.post(f"{base}/evict", json={"reason": "two\nlines"})).status_code == 400
        assert (await http.post(f"{base}/evict", json={})).status_code == 200
        gone = await http.put(base, json=body)
        assert (gone.status_code, gone.json()["type"]) == (410, "urn:forge:problem:replica-recalled")
        assert gone.headers["forge-reseed"].endswith("/snapshot/latest")
        assert (await http.put(base, json=body | {"copy_id": "1" * 16})).json()["state"] in ("live", "catching_up")
        asked = {"after": "1.1", "replica": "reader-1", "copy": "1" * 16, "applied": "1.2"}
        assert (await http.get(f"/api/v1/db/{DB}/wal", params=asked)).status_code == 400
        assert (await http.post(f"/api/v1/db/{DB}/replicas/nobody/evict", json={})).status_code == 404
