"""Two nodes with data directories of their own and one bucket: one writes, the other stands by and takes over."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from events.objects.s3 import S3Store
from events.segment import open_segment
from forge.stack.weed import Weed
from projectors.document.domain import document_partition
from schemas.ids import Position
from schemas.writer_lease import LeaseRecord, lease_key
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.s3_stores import s3_environ, s3_store

DB = "notes"
WAIT_S = 90.0
LOOK_S = 0.1
SEAL_S = 2.0  # what was answered within that before the node stopped is not archived
LEASE = {"FORGE_LEASE_DURATION_S": "6", "FORGE_LEASE_RENEW_S": "1", "FORGE_LEASE_MARGIN_S": "1"}
QUIET_S = 3.0  # several renewals and polls


def environ(weed: Weed, prefix: str) -> dict[str, str]:
    """Return the settings of nodes that share `prefix`."""
    own = {"FORGE_ARCHIVE_SEAL_S": str(SEAL_S), "FORGE_STANDBY_POLL_S": "0.2", "FORGE_GENERATION_RECORDS": "1000000"}
    return s3_environ(weed, prefix=prefix) | LEASE | own


async def sql(node: NodeProcess, statement: str, *args: Any) -> httpx2.Response:
    """Run one statement on a node; return whatever it answers."""
    async with node.http() as http:
        return await http.post(f"/api/v1/db/{DB}/query/exec", json={"sql": statement, "args": list(args)})


async def note(node: NodeProcess, text: str) -> Position:
    """Write a note; return where it stands."""
    answer = await sql(node, "INSERT INTO note VALUES (?)", text)
    assert answer.status_code == 200, answer.text
    return Position.parse(answer.headers["forge-position"])


async def notes(node: NodeProcess) -> list[str] | None:
    """Return the notes of a node, None while it cannot tell."""
    try:
        answer = await sql(node, "SELECT text FROM note ORDER BY rowid")
    except httpx2.TransportError:
        return None
    return [row[0] for row in answer.json()["rows"]] if answer.status_code == 200 else None


async def status(node: NodeProcess) -> dict[str, Any]:
    """Return what a node says of its lease; empty while it says nothing."""
    try:
        async with node.http() as http:
            answer = await http.get("/status")
    except httpx2.TransportError:
        return {}
    return dict(answer.json().get("writer") or {}) if answer.status_code == 200 else {}


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until `condition` holds."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not await condition():  # noqa: ASYNC110 - other processes have no event to wait for
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise AssertionError(f"not within {WAIT_S:g} s: {what}") from None


async def until_writer(node: NodeProcess) -> None:
    """Wait until a node takes writes."""

    async def writes() -> bool:
        return (await status(node)).get("writes") is True

    await until(writes, "it is the writer")


async def until_standby(node: NodeProcess) -> None:
    """Wait until a node says that it is a standby."""

    async def stands_by() -> bool:
        return (await status(node)).get("role") == "standby"

    await until(stands_by, "it is a standby")


async def until_notes(node: NodeProcess, wanted: list[str]) -> None:
    """Wait until a node reads `wanted`."""

    async def reads() -> bool:
        return await notes(node) == wanted

    await until(reads, f"it reads {wanted}")


async def started(start_node: StartNode, weed: Weed, prefix: str) -> NodeProcess:
    """Return a node that is the writer and has a document."""
    node = await start_node(extra=environ(weed, prefix))
    async with node.client() as client:
        await client.documents.create(DB)
    assert (await sql(node, "CREATE TABLE note (text)")).status_code == 200
    return node


async def everything(store: S3Store, prefix: str) -> dict[str, tuple[str, bytes]]:
    """Return all objects below a prefix, with their versions and bytes."""
    found: dict[str, tuple[str, bytes]] = {}
    after = ""
    while page := await store.list(f"{prefix}/", after=after):
        for listed in page:
            one = await store.get(listed.key)
            found[listed.key] = (one.tag, one.data)
        after = page[-1].key
    return found


async def assert_nothing_written(store: S3Store, prefix: str, by: NodeProcess, meanwhile: Awaitable[None]) -> None:
    """Fail unless nothing in the bucket changes during `meanwhile` but the lease, and that not by `by`."""
    before = await everything(store, prefix)
    await meanwhile
    after = await everything(store, prefix)
    lease = f"{prefix}/{lease_key()}"
    record = LeaseRecord.parse(after.pop(lease)[1])
    assert str(by.data.resolve()) not in record.place
    assert record.epoch == LeaseRecord.parse(before.pop(lease)[1]).epoch
    assert {key: tag for key, (tag, _) in after.items()} == {key: tag for key, (tag, _) in before.items()}


async def kept_aside(node: NodeProcess) -> list[str]:
    """Return the notes in the segments that a node has kept aside."""
    found: list[str] = []
    for path in sorted((node.data / "aside").rglob("*.seg")):
        raw = await asyncio.to_thread(path.read_bytes)
        if b"forge.log.doc." not in raw[:400]:
            continue
        segment = open_segment(raw, document_partition(DB))
        found += [json.dumps(envelope) for entry in segment.entries for envelope in entry.record.envelopes()]
    return found


@pytest.mark.timeout(400)
async def test_a_node_that_slept_past_its_lease_writes_nothing_and_keeps_its_tail(
    start_node: StartNode, weed: Weed, tmp_path: Path
) -> None:
    """PR3, PR4, G3, G11: the second goes on, the first stands by when it awakes; restored is the second's."""
    prefix = f"failover-{os.getpid()}"
    first = await started(start_node, weed, prefix)
    second = await start_node(extra=environ(weed, prefix))
    store = s3_store(weed)
    try:
        await until_standby(second)
        for number in range(5):
            await note(first, f"archived {number}")
        shared = [f"archived {number}" for number in range(5)]
        await until_notes(second, shared)
        refused = await sql(second, "INSERT INTO note VALUES ('no')")
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:forge:problem:not-the-writer"), refused.text
        assert refused.headers["retry-after"]
        assert f":{first.pid}" in refused.json()["detail"]

        tail = [await note(first, f"lost {number}") for number in range(3)]
        os.kill(first.pid, signal.SIGSTOP)
        await until_writer(second)
        position = await note(second, "second")
        assert position.epoch == 2
        assert position.index <= tail[-1].index, "the tail of the first was not archived"
        kept = await notes(second)
        assert kept is not None
        assert kept[:5] == shared
        assert kept[-1] == "second"
        await until_archived(second)

        async def awake() -> None:
            os.kill(first.pid, signal.SIGCONT)
            await until_standby(first)
            refused = await sql(first, "INSERT INTO note VALUES ('no')")
            assert refused.status_code == 503
            await until_notes(first, kept)
            await asyncio.sleep(QUIET_S)

        await assert_nothing_written(store, prefix, first, awake())
        aside = await kept_aside(first)
        assert any("lost 2" in one or "changeset" in one for one in aside), aside
        assert list(first.data.rglob("notes.db.aside-1.*")), "its file is kept too"
        assert "kept aside" in await asyncio.to_thread(first.log.read_text)

        await note(second, "after")
        await until_notes(first, [*kept, "after"])
        assert await second.stop() == 0
        await until_writer(first)
        third = NodeProcess(tmp_path / "third", extra=environ(weed, prefix))
        await asyncio.to_thread(third.home.mkdir)
        assert await notes(first) == [*kept, "after"]
        assert await first.stop() == 0
        restored = await third.cli("restore", "--json")
        assert restored.code == 0, restored.err
        await third.start()
        try:
            assert await notes(third) == [*kept, "after"]
            assert (await note(third, "third")).epoch == 4
        finally:
            await third.close()
    finally:
        await store.close()


async def until_archived(node: NodeProcess) -> None:
    """Wait until a node has archived everything, and has told it."""

    async def archived() -> bool:
        async with node.client() as client:
            said = await client.replicate_status()
        return all(stream["lag_records"] == 0 for stream in said["streams"])

    await until(archived, "everything is archived")
    await asyncio.sleep(QUIET_S + 5)  # and its marks are stored
