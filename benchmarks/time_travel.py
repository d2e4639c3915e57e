"""A read of the past that is far from any copy: folded from its history, and on top of a generation."""

import argparse
import time
from typing import Any

import uvloop

from benchmarks.large_restore import NEVER, copied
from benchmarks.peers.load import Connection, call, encode_request
from benchmarks.report import Report
from benchmarks.takeover import BODY, BUCKET, INSERT, SCHEMA, archived, environ, name, request
from benchmarks.takeover_nodes import SharingNode, bucket, started

HISTORY, GENERATION = 1, 0  # the document that has no generation, and the one that has
AFTER = 100  # records after the generation


async def fill(node: SharingNode, document: int, records: int) -> None:
    """Write rows, one after the other, so that each is a record."""
    connection = await Connection.open(node.port)
    insert = request(node, f"/{name(document)}/query/exec", {"sql": INSERT, "args": [BODY]})
    for _ in range(records):
        await connection.call(insert)
    connection.close()


async def index(node: SharingNode, document: int) -> int:
    """Return how many records a document has."""
    headers = {"Authorization": f"Bearer {node.token}"}
    said = await call(node.port, encode_request("GET", f"/api/v1/db/{name(document)}/changes?before=&limit=1", headers))
    return int(said["changes"][0]["position"].partition(".")[2])


async def read_past(node: SharingNode, document: int, record: int) -> float:
    """Read the document as it was after a record; return how long that took."""
    body = {"sql": "SELECT count(*) FROM item", "args": []}
    began = time.perf_counter()
    await call(node.port, request(node, f"/{name(document)}/query/exec?at=1.{record}", body))
    return round(time.perf_counter() - began, 3)


async def run(records: int) -> dict[str, Any]:
    """Fill two documents alike, and read the same past of both."""
    async with bucket(BUCKET) as (weed, folder):
        node = SharingNode(folder / "node", environ(weed) | NEVER)
        with started(node):
            return await measure(node, records)


async def measure(node: SharingNode, records: int) -> dict[str, Any]:
    """Return the seconds of first and second reads, and of how many records they are."""
    for document in (HISTORY, GENERATION):
        await call(node.port, request(node, "", {"db_id": name(document)}))
        await call(node.port, request(node, f"/{name(document)}/query/exec", {"sql": SCHEMA, "args": []}))
        await fill(node, document, records)
    await archived(node)
    figures: dict[str, Any] = {"generation_s": round(await copied(node), 1)}
    await fill(node, GENERATION, AFTER)
    for document, kind in ((HISTORY, "history"), (GENERATION, "generation")):
        record = await index(node, document)
        figures[kind] = {
            "records": record,
            "first_s": await read_past(node, document, record),
            "again_s": await read_past(node, document, record),
        }
    return figures


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look; nothing is stored")
    parser.add_argument("--records", type=int, default=20_000, help="of each history (20,000)")
    options = parser.parse_args()
    figures = uvloop.run(run(12_000 if options.quick else options.records))
    report = Report("time_travel", figures)
    report.ratio("generation_to_history", figures["generation"]["first_s"] / figures["history"]["first_s"])
    report.target("generation_to_history", at_most=0.5)
    report.write(store=not options.quick)


if __name__ == "__main__":
    main()
