"""Two nodes with data directories of their own and one bucket: one writes, the other stands by and takes over."""

import asyncio
import json
import os
import random
import signal
from collections.abc import Awaitable
from pathlib import Path

import pytest

from events.archive import Archive
from events.objects.s3 import S3Store
from events.segment import open_segment
from forge.client import ForgeError
from forge.stack.weed import Weed
from projectors.document.domain import document_partition
from schemas.writer_lease import LeaseRecord, lease_key
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.acceptance.two_nodes import (
    DB,
    QUIET_S,
    environ,
    everything,
    note,
    notes,
    sql,
    started,
    until_archived,
    until_notes,
    until_standby,
    until_writer,
)
from tests.faults.killer import fresh_seed
from tests.s3_stores import s3_store

LATE = {"FORGE_ARCHIVE_SEAL_S": "10"}  # a tail stays one, also if the machine stalls before the writer falls asleep


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


async def assert_refuses(standby: NodeProcess, writer: NodeProcess) -> None:
    """Fail unless a standby refuses what changes something, and names the writer."""
    refused = await sql(standby, "INSERT INTO note VALUES ('no')")
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:forge:problem:not-the-writer"), refused.text
    assert refused.headers["retry-after"]
    assert f":{writer.pid}" in refused.json()["detail"]
    unknown = await sql(standby, "INSERT INTO nowhere VALUES ('no')")  # which the writer may have a moment ago
    assert (unknown.status_code, unknown.json()["type"]) == (503, "urn:forge:problem:not-here-yet"), unknown.text
    assert "no such table: nowhere" in unknown.json()["detail"]
    async with standby.client() as client:  # which sends a key with everything, for it may have to repeat it
        with pytest.raises(ForgeError, match="no such table: nowhere") as read:
            await client.db(DB).exec("SELECT text FROM nowhere")
    assert read.value.type == "urn:forge:problem:not-here-yet"


async def assert_restored(node: NodeProcess, wanted: list[str]) -> None:
    """Fail unless a new machine that is restored has what is wanted, and goes on in an epoch of its own."""
    await asyncio.to_thread(node.home.mkdir)
    restored = await node.cli("restore", "--json")
    assert restored.code == 0, restored.err
    await node.start()
    try:
        assert await notes(node) == wanted
        assert (await note(node, "third")).epoch == 4
    finally:
        await node.close()


async def test_a_node_that_slept_past_its_lease_writes_nothing_and_keeps_its_tail(
    start_node: StartNode, weed: Weed, tmp_path: Path
) -> None:
    """PR3, PR4, G3, G11: the second goes on, the first stands by when it awakes; restored is the second's."""
    prefix = f"failover-{random.Random(fresh_seed()).randrange(1 << 30)}"
    first = await started(start_node, weed, prefix, extra=LATE)
    second = await start_node(extra=environ(weed, prefix))
    store = s3_store(weed)
    try:
        await until_standby(second)
        for number in range(5):
            await note(first, f"archived {number}")
        shared = [f"archived {number}" for number in range(5)]
        await until_notes(second, shared)
        await assert_refuses(second, first)

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
        await until_archived(second, Archive(store, prefix))

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
        assert await notes(first) == [*kept, "after"]
        assert await first.stop() == 0
        await assert_restored(NodeProcess(tmp_path / "third", extra=environ(weed, prefix)), [*kept, "after"])
    finally:
        await store.close()
