"""One large document back from the store as a file: from its segments alone, and from a generation; time and memory."""

import argparse
import asyncio
import os
import time
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.peers.load import Connection, call, encode_request
from benchmarks.report import Report
from benchmarks.takeover import BUCKET, INSERT, SCHEMA, archived, environ, name, request
from benchmarks.takeover_nodes import SharingNode, bucket, started

ROW_BYTES = 8192  # of text that packs to half
BATCH = 90
NEVER = {"FORGE_GENERATION_RECORDS": str(10**9), "FORGE_GENERATION_BYTES": str(1 << 50)}
LOOK_S = 0.2


async def fill(node: SharingNode, size_mib: int) -> float:
    """Make a document of that size; return how long it took."""
    connection, began = await Connection.open(node.port), time.perf_counter()
    await connection.call(request(node, "", {"db_id": name(0)}))
    await connection.call(request(node, f"/{name(0)}/query/exec", {"sql": SCHEMA, "args": []}))
    rows = size_mib * (1 << 20) // ROW_BYTES
    for first in range(0, rows, BATCH):
        texts = [os.urandom(ROW_BYTES // 2).hex() for _ in range(min(BATCH, rows - first))]
        statements = [{"sql": INSERT, "args": [text]} for text in texts]
        await connection.call(request(node, f"/{name(0)}/query/batch", {"statements": statements}))
    connection.close()
    return time.perf_counter() - began


async def copied(node: SharingNode) -> float:
    """Have a generation made; return how long it took."""
    began, wanted = time.perf_counter(), {"projections": [f"doc/{name(0)}"]}
    headers = {"Authorization": f"Bearer {node.token}"}
    asking = encode_request("POST", "/api/v1/replicate/generations", headers, wanted)
    while (made := (await call(node.port, asking))["generations"][0])["result"] == "making":  # noqa: ASYNC110 - it is asked
        await asyncio.sleep(LOOK_S)
    if made["problem"]:
        raise RuntimeError(made["problem"])
    return time.perf_counter() - began


def restored(node: SharingNode, target: Path) -> dict[str, Any]:
    """Restore the document as a file; return time, peak memory and requests."""
    found = node.command("restore", name(0), "--to", str(target))
    said = found.pop("said")
    return found | {"size_bytes": said["size_bytes"], "generation": said["generation"]}


async def run(size_mib: int) -> dict[str, Any]:
    """Measure one after the other."""
    figures: dict[str, Any] = {"size_mib": size_mib}
    async with bucket(BUCKET) as (weed, folder):
        node, other = (SharingNode(folder / one, environ(weed) | NEVER) for one in ("node", "other"))
        with started(node):
            figures["filled_s"] = round(await fill(node, size_mib), 1)
            figures["archived_s"] = round(await archived(node), 1)
            figures["from_segments"] = restored(other, folder / "segments.db")
            figures["generation_s"] = round(await copied(node), 1)
            figures["from_generation"] = restored(other, folder / "generation.db")
    return figures


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="16 MiB; nothing is stored")
    parser.add_argument("--size-mib", type=int, default=1024, help="of the document (1024)")
    options = parser.parse_args()
    figures = uvloop.run(run(16 if options.quick else options.size_mib))
    Report("large_restore", figures).write(store=not options.quick)


if __name__ == "__main__":
    main()
