"""The writer lease of a node, as a user sees it: in the store, in the answers, and on the command line."""

import asyncio
import json
import random
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from events.objects.port import ObjectStore
from forge.stack.weed import Weed
from schemas.writer_lease import LeaseRecord, lease_key
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.faults.killer import fresh_seed, kill
from tests.faults.s3_proxy import S3Proxy
from tests.s3_stores import s3_environ, s3_store

QUICK = {"FORGE_LEASE_DURATION_S": "10", "FORGE_LEASE_RENEW_S": "1", "FORGE_LEASE_MARGIN_S": "1"}
WAIT_S = 60.0


def new_prefix() -> str:
    return f"lease-{random.Random(fresh_seed()).randrange(1 << 30)}"


async def record(store: ObjectStore, prefix: str) -> LeaseRecord:
    """Return the lease as it is stored."""
    return LeaseRecord.parse((await store.get(f"{prefix}/{lease_key()}")).data)


async def lease_status(node: NodeProcess, *command: str) -> dict[str, object]:
    said = await node.cli(*(command or ("lease", "status")), "--json")
    assert said.code == 0, said.err
    found: dict[str, object] = json.loads(said.out)
    return found


async def writer(http: httpx2.AsyncClient) -> tuple[int, dict[str, object]]:
    """Ask whether the node is ready; return the status, and what it says of its lease."""
    answer = await http.get("/readyz")
    (check,) = [check for check in answer.json()["checks"] if check["name"] == "writer"]
    return answer.status_code, check


async def until_answered(http: httpx2.AsyncClient, sql: str, kind: str = "") -> httpx2.Response:
    """Run a statement again and again until it is done, or refused for the reason `kind`."""
    async with asyncio.timeout(WAIT_S):
        while True:
            answer = await http.post("/api/v1/db/d/query/exec", json={"sql": sql})
            if (answer.is_success and not kind) or (answer.is_error and answer.json()["type"] == kind):
                return answer
            await asyncio.sleep(0.05)


async def test_a_node_holds_its_lease_and_goes_on_at_once_after_a_kill(start_node: StartNode, weed: Weed) -> None:
    """PR1, PR3: the same epoch, and the lease is over as soon as the node stops."""
    prefix = new_prefix()
    long = {"FORGE_LEASE_DURATION_S": "600"}  # so that it is not renewed while two commands say what it is
    node = await start_node(extra=s3_environ(weed, prefix=prefix) | long)
    store = s3_store(weed)
    first = await record(store, prefix)
    async with node.http() as http:
        assert (await http.post("/api/v1/db", json={"db_id": "d"})).status_code == 201
        assert (await writer(http))[1]["ok"]
        metrics = (await http.get("/metrics")).text
    assert "forge_writer_lease_epoch 1.0" in metrics
    said = await lease_status(node)
    assert (said["found"], said["expired"], said["owner_id"], said["epoch"]) == (True, False, first.owner_id, 1)
    assert (said["configured_mode"], said["effective_mode"]) == ("auto", "hard")
    assert str(said["etag"]).startswith('"')
    assert said == await lease_status(node, "vector", "lease-status") | {
        "etag": said["etag"],
        "seconds_until_expiry": said["seconds_until_expiry"],
    }
    assert "epoch 1, lease hard" in (await node.cli("status")).out

    await kill(node.pid)
    await node.start()
    second = await record(store, prefix)
    assert (second.epoch, second.lease_id != first.lease_id) == (1, True)
    async with node.http() as http:
        assert (await http.post("/api/v1/db/d/query/exec", json={"sql": "CREATE TABLE t (a)"})).is_success
    assert await node.stop() == 0

    assert (await record(store, prefix)).duration_s == 0
    said = await lease_status(node)
    assert (said["found"], said["expired"]) == (True, True)
    other = await node.cli("lease", "status", "--resource", "vector/embeddings-writer")
    assert "found: false" in other.out
    assert f"object_key: {prefix}/leases/vector/embeddings-writer.json" in other.out
    await store.close()


@pytest.mark.parametrize(
    ("environ", "resource", "blamed"),
    [
        ({"FORGE_S3_ENDPOINT_URL": "nonsense"}, "a", "FORGE_S3_ENDPOINT_URL"),
        ({"FORGE_S3_ENDPOINT_URL": "http://host:65536"}, "a", "FORGE_S3_ENDPOINT_URL"),
        ({"FORGE_S3_SECRET_ACCESS_KEY": ""}, "a", "FORGE_S3_SECRET_ACCESS_KEY"),
        ({}, "a//b", "--resource"),
    ],
)
async def test_who_asks_for_a_lease_is_told_what_was_wrong(
    tmp_path: Path, environ: dict[str, str], resource: str, blamed: str
) -> None:
    """And not of anything else that was said."""
    given = {"FORGE_S3_BUCKET": "b", "FORGE_S3_ACCESS_KEY_ID": "k", "FORGE_S3_SECRET_ACCESS_KEY": "s"} | environ
    node = NodeProcess(tmp_path, extra=given)

    done = await node.cli("lease", "status", "--resource", resource)
    await node.close()

    assert done.code == 2
    assert blamed in done.err
    assert ("--resource" in done.err) == (blamed == "--resource")


async def test_a_store_that_is_away_for_long_stops_writes_and_nothing_else(start_node: StartNode, weed: Weed) -> None:
    """PR3, PR7: 503 with its reason, reads go on; when the store is back, so do writes, by themselves."""
    parts = urlsplit(weed.s3_url)
    assert parts.hostname
    assert parts.port
    async with S3Proxy(parts.hostname, parts.port, random.Random(1)) as proxy:
        prefix = new_prefix()
        node = await start_node(extra=s3_environ(weed, port=proxy.port, prefix=prefix) | QUICK)
        async with node.http() as http:
            await http.post("/api/v1/db", json={"db_id": "d"})
            insert = "INSERT INTO t VALUES (1)"
            assert (await http.post("/api/v1/db/d/query/exec", json={"sql": "CREATE TABLE t (a)"})).is_success
            await proxy.refuse()
            await proxy.drop_connections()

            # of one that was on its way in that moment nobody knows, and of those after it why they are refused
            refused = await until_answered(http, insert, "urn:forge:problem:not-the-writer")
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            assert (await http.get("/healthz")).status_code == 200
            status, check = await writer(http)
            assert (status, check["ok"]) == (503, False)
            count = {"sql": "SELECT count(*) FROM t"}
            (rows,) = (await http.post("/api/v1/db/d/query/exec", json=count)).json()["rows"]
            assert (await http.get("/status")).json()["writer"]["writes"] is False

            proxy.accept()
            await until_answered(http, insert)
            assert (await http.post("/api/v1/db/d/query/exec", json=count)).json()["rows"] == [[rows[0] + 1]]
            assert (await http.get("/status")).json()["writer"]["epoch"] == 1
        assert await node.stop() == 0


async def test_without_a_store_there_is_no_lease(start_node: StartNode) -> None:
    """PR8."""
    node = await start_node()

    said = await node.cli("lease", "status")

    assert (said.code, "no writer lease" in said.out) == (0, True)
    assert not (node.data / "lease.json").exists()
    async with node.http() as http:
        assert (await http.get("/status")).json()["writer"] is None


@pytest.mark.parametrize("mode", ["off", "soft"])
async def test_each_mode_writes_and_goes_on_after_a_kill(start_node: StartNode, weed: Weed, mode: str) -> None:
    """PR1: in every mode a single node is as it was, and archives."""
    prefix = new_prefix()
    node = await start_node(extra=s3_environ(weed, prefix=prefix) | QUICK | {"FORGE_LEASE_MODE": mode})
    async with node.http() as http:
        assert (await http.post("/api/v1/db", json={"db_id": "d"})).status_code == 201
        said = (await http.get("/status")).json()["writer"]
        assert (said["writes"], said["mode"], said["epoch"]) == (True, mode, 1)
    await kill(node.pid)
    await node.start()
    async with node.http() as http:
        assert (await http.post("/api/v1/db/d/query/exec", json={"sql": "CREATE TABLE t (a)"})).is_success
    assert await node.stop() == 0
    said = await lease_status(node)
    assert (said["configured_mode"], said["effective_mode"], said["found"]) == (mode, mode, mode != "off")
    store = s3_store(weed)
    assert await store.list(f"{prefix}/log/FORGE_DOCS/")
    await store.close()
