"""Many documents on one prefix: how long nobody can write after a kill, and how long a restore and a restart take."""

import argparse
import asyncio
import signal
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.peers.load import CallFailed, call, encode_request, measure
from benchmarks.peers.processes import raise_open_files, until
from benchmarks.report import Report
from benchmarks.takeover_nodes import SharingNode, difference
from forge.stack.weed import REGION, Weed
from schemas.writer_lease import LeaseRecord, lease_key

BUCKET, PREFIX = "bench", "takeover"
CLIENTS = 16
ROWS = 5
LEASE_S = 6
LOOK_S = 0.02
SETTLE_S = 3.0
QUIET_S = 25.0  # then no partition is busy but the one that is written
WAIT_S = 3600.0
SCHEMA = "CREATE TABLE item (id INTEGER PRIMARY KEY, body TEXT)"
INSERT = "INSERT INTO item (body) VALUES (?)"
BODY = "The quick brown fox jumps over the lazy dog, and goes home."


def name(number: int) -> str:
    """Return the name of a document."""
    return f"d{number:05d}"


def request(node: SharingNode, path: str, body: Any) -> bytes:
    """Return a request with the root token."""
    return encode_request("POST", f"/api/v1/db{path}", {"Authorization": f"Bearer {node.token}"}, body)


def row(node: SharingNode, number: int) -> bytes:
    """Return the request that writes a row into a document."""
    return request(node, f"/{name(number)}/query/exec", {"sql": INSERT, "args": [BODY]})


async def fill(node: SharingNode, documents: int) -> dict[str, float]:
    """Make documents with a table and a few rows; return how fast that was."""
    statements = [{"sql": SCHEMA, "args": []}, *({"sql": INSERT, "args": [BODY]} for _ in range(ROWS))]
    began = time.perf_counter()
    made = (request(node, "", {"db_id": name(n)}) for n in range(documents))
    await measure(node.port, made, CLIENTS, WAIT_S)
    filled = (request(node, f"/{name(n)}/query/batch", {"statements": statements}) for n in range(documents))
    await measure(node.port, filled, CLIENTS, WAIT_S)
    return {"seconds": round(time.perf_counter() - began, 1)}


async def written(node: SharingNode, number: int) -> float:
    """Write a row as soon as the node takes it; return when that was (a `time.time`)."""
    while True:
        try:
            await call(node.port, row(node, number))
            return time.time()
        except (CallFailed, OSError):
            await asyncio.sleep(LOOK_S)


async def archived(node: SharingNode) -> float:
    """Wait until everything is archived; return how long that took."""
    began = time.perf_counter()

    def all_of_it() -> bool:
        checks = node.said("/readyz")["checks"]
        return any(check["name"] == "archive" and " 0 records behind" in check["value"] for check in checks)

    await until(all_of_it, timeout_s=WAIT_S, every_s=0.5)
    return time.perf_counter() - began


async def follows(node: SharingNode) -> None:
    """Wait until a standby has all that is archived."""

    def ready() -> bool:
        checks = node.said("/readyz")["checks"]
        return any(check["name"] == "standby" and check["ok"] for check in checks)

    await until(ready, timeout_s=WAIT_S, every_s=0.1)


def lease_ends(client: Any) -> float:
    """Return when the lease that is stored runs out (a `time.time`)."""
    stored = client.get_object(Bucket=BUCKET, Key=f"{PREFIX}/{lease_key()}")["Body"].read()
    return LeaseRecord.parse(stored).expires_at_utc.replace(tzinfo=UTC).timestamp()


async def takeover(writer: SharingNode, standby: SharingNode, client: Any) -> dict[str, Any]:
    """Kill the writer while it is written to; return how long it takes until the standby takes a write."""
    before = standby.requests()
    await written(writer, 0)
    killed = time.time()
    writer.end(signal.SIGKILL)
    ends = lease_ends(client)
    at = await written(standby, 0)
    return {
        "after_the_kill_s": round(at - killed, 2),
        "after_the_lease_s": round(at - ends, 2),
        "requests": difference(standby.requests(), before),
        "memory_mib": standby.memory_mib(),
    }


async def stood_by(standby: SharingNode) -> dict[str, Any]:
    """Start a standby with nothing; return how long it takes until it has everything."""
    began = time.perf_counter()
    standby.start()
    await follows(standby)
    seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 2), "requests": standby.requests(), "memory_mib": standby.memory_mib()}


async def started(node: SharingNode) -> dict[str, Any]:
    """Start a node; return how long it takes until it takes a write."""
    began = time.time()
    node.start()
    at = await written(node, 1)
    return {"seconds": round(at - began, 2), "requests": node.requests(), "memory_mib": node.memory_mib()}


async def run(documents: int) -> dict[str, Any]:
    """Measure one after the other."""
    raise_open_files()
    figures: dict[str, Any] = {"documents": documents, "began": datetime.now(UTC).isoformat(timespec="seconds")}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        async with Weed(Path(folder), supervised=False) as weed:
            client = weed.s3_client()
            closing.callback(client.close)
            client.create_bucket(Bucket=BUCKET)
            nodes = [SharingNode(Path(folder, node), environ(weed)) for node in ("first", "second", "third")]
            try:
                await _measure(figures, nodes, client, documents)
            finally:
                for node in nodes:
                    if node.runs:
                        node.end()
    return figures


async def _measure(figures: dict[str, Any], nodes: list[SharingNode], client: Any, documents: int) -> None:
    first, second, third = nodes
    first.start()
    figures["filled"] = await fill(first, documents)
    figures["archived_s"] = round(await archived(first), 1)
    figures["standby"] = await stood_by(second)
    await asyncio.sleep(QUIET_S)
    figures["takeover"] = await takeover(first, second, client)
    await asyncio.sleep(SETTLE_S)
    await archived(second)
    figures["after_takeover_requests"] = second.requests()
    figures["stopped_s"] = round(second.end(), 2)
    restored = third.command("restore")
    outcomes = [outcome["done"] for outcome in restored.pop("said")["partitions"]]
    figures["restore"] = restored | {"outcomes": {done: outcomes.count(done) for done in sorted({*outcomes})}}
    figures["restored_start"] = await started(third)
    await asyncio.sleep(SETTLE_S)
    third.end(signal.SIGKILL)
    figures["restart"] = await started(third)


def environ(weed: Weed) -> dict[str, str]:
    """Return the settings of the nodes."""
    return {
        "FORGE_S3_BUCKET": BUCKET,
        "FORGE_S3_PREFIX": PREFIX,
        "FORGE_S3_REGION": REGION,
        "FORGE_S3_ENDPOINT_URL": weed.s3_url,
        "FORGE_S3_ACCESS_KEY_ID": weed.access_key,
        "FORGE_S3_SECRET_ACCESS_KEY": weed.secret_key,
        "FORGE_S3_FORCE_PATH_STYLE": "true",
        "FORGE_LEASE_DURATION_S": str(LEASE_S),
        "FORGE_LEASE_RENEW_S": str(LEASE_S / 3),
    }


def report(figures: dict[str, Any]) -> Report:
    """Return the figures, and the requests for each document."""
    result = Report("takeover", figures)
    for part in ("standby", "takeover", "restore", "restored_start", "restart"):
        result.ratio(f"{part}_requests_per_document", sum(figures[part]["requests"].values()) / figures["documents"])
    return result


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200 documents; nothing is stored")
    parser.add_argument("--look", action="store_true", help="as many as asked for; nothing is stored")
    parser.add_argument("--documents", type=int, default=10_000, help="how many (10,000)")
    options = parser.parse_args()
    documents = 200 if options.quick else options.documents
    report(uvloop.run(run(documents))).write(store=not (options.quick or options.look))


if __name__ == "__main__":
    main()
