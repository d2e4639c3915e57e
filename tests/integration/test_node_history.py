"""A whole node serves the history of its documents, and says so."""

import asyncio

import httpx2

from events.chunk import open_chunk
from events.cursor import Cursor
from projectors.document.domain import document_partition
from tests.conftest import ServedNode


async def test_a_node_serves_feed_log_and_snapshot_of_a_document(node: ServedNode) -> None:
    """Issue 3, deliverables 5 and 6: with a token, of documents that exist, described in AsyncAPI."""
    headers = {"authorization": f"Bearer {node.token}"}
    async with httpx2.AsyncClient(base_url=node.url, headers=headers, timeout=30) as client:
        assert (await client.post("/api/v1/db", json={"db_id": "notes"})).status_code in (200, 201)
        written = await client.post(
            "/api/v1/db/notes/query/exec", json={"sql": "CREATE TABLE t (id INTEGER PRIMARY KEY)"}
        )
        assert written.status_code == 200, written.text
        position = written.headers["forge-position"]

        page, chunk, snapshot, missing, described = await asyncio.gather(
            client.get("/api/v1/db/notes/changes", params={"after": "0"}),
            client.get("/api/v1/db/notes/wal", params={"segment": 1, "offset": 0}),
            client.get("/api/v1/db/notes/snapshot/latest"),
            client.get("/api/v1/db/nothing/changes"),
            client.get("/api/v1/asyncapi.json"),
        )

    assert page.json()["changes"][-1]["changes"][0]["op"] == "ddl"
    partition = document_partition("notes")
    found = open_chunk(chunk.content, partition, Cursor.start(partition))
    assert str(found.cursor.position) == page.json()["head"] == snapshot.headers["forge-position"] == position
    assert snapshot.headers["forge-hash"] == found.cursor.hash
    assert missing.status_code == 404
    assert described.json()["asyncapi"].startswith("3.")
