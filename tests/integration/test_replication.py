"""Slices of the log over HTTP: addresses, bounds, waiting, refusals, and that they lead to the same content."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from api import replication
from events.chunk import Chunk, chunk_record, open_chunk
from events.cursor import Cursor
from events.read import read
from forge.stack.nats import NatsServer
from projectors.document.domain import document_partition
from schemas import wal
from schemas.ids import START, Position
from schemas.wal import CONTENT_TYPE
from tests.history_node import HistoryNode, history_node, new_db_id
from tests.notes import append_note, eventually

SEED = 20261120
TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, body)"


@pytest_asyncio.fixture
async def node(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[HistoryNode]:
    async with history_node(nats_server, tmp_path) as served:
        yield served


async def chunk(node: HistoryNode, db_id: str, after: Cursor, **query: Any) -> Chunk:
    """Return what follows `after`, verified."""
    asked = {"segment": after.position.epoch, "offset": after.position.index, "hash": after.hash} | query
    answer = await node.get(db_id, "wal", **asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == CONTENT_TYPE
    opened = open_chunk(answer.content, document_partition(db_id), after)
    head = opened.head
    told = {name: answer.headers[f"forge-{name}"] for name in ("next", "head", "floor", "eof")}
    assert told == {"next": head.next, "head": head.head, "floor": head.floor, "eof": str(head.eof).lower()}
    return opened


async def test_chunks_of_any_size_carry_the_records_of_the_log(node: HistoryNode) -> None:
    """K2.1, K2.2: the very same records, receipts included; the first one comes however large it is."""
    chance = random.Random(SEED)
    db_id = new_db_id()
    partition = document_partition(db_id)
    await node.sql(db_id, TABLE)
    for n in range(40):
        size = 40_000 if n == 20 else chance.randint(1, 300)
        await node.sql(db_id, f"INSERT INTO t VALUES ({n}, hex(randomblob({size})))")
    logged = [entry async for entry in read(node.log.reader, partition, Cursor.start(partition))]

    for bytes_max in (1, 3000, 20_000, 1 << 20):
        cursor, found, eof = Cursor.start(partition), [], False
        while not eof:
            one = await chunk(node, db_id, cursor, max_bytes=bytes_max)
            assert one.entries
            assert one.head.count == 1 or wal.size(one.head, list(map(chunk_record, one.entries))) <= bytes_max
            found += one.entries
            cursor, eof = one.cursor, one.head.eof
        assert found == logged, f"seed {SEED}, {bytes_max} bytes"
    assert one.head.count == len(logged)


async def test_a_chunk_holds_a_bounded_number_of_records(node: HistoryNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """PR7: many tiny records do not hold the node up."""
    monkeypatch.setattr(replication, "CHUNK_RECORDS_MAX", 3)
    db_id = new_db_id()
    for n in range(4):
        await node.sql(db_id, TABLE if not n else f"INSERT INTO t VALUES ({n}, 'x')")

    first = await chunk(node, db_id, Cursor.start(document_partition(db_id)))
    second = await chunk(node, db_id, first.cursor)

    assert [(one.head.count, one.head.eof) for one in (first, second)] == [(3, False), (1, True)]


async def test_both_forms_of_an_address_give_the_same_records(node: HistoryNode) -> None:
    """K2.1: segment and offset, or a position."""
    db_id = new_db_id()
    for n in range(3):
        await node.sql(db_id, TABLE if not n else f"INSERT INTO t VALUES ({n}, 'x')")

    one = await node.get(db_id, "wal", segment=1, offset=1)
    other = await node.get(db_id, "wal", after="1.1")
    beginning = await node.get(db_id, "wal", after="0")

    assert one.content == other.content
    assert beginning.content == (await node.get(db_id, "wal", segment=1, offset=0)).content


async def test_at_the_head_a_chunk_is_empty_and_names_where_to_go_on(node: HistoryNode) -> None:
    """K2.2: `next` is never null; an empty document has a head and a floor too."""
    db_id = new_db_id()
    empty = await chunk(node, db_id, Cursor.start(document_partition(db_id)))
    assert (empty.entries, empty.head.next, empty.head.head, empty.head.eof) == ([], "1.0", str(START), True)

    await node.sql(db_id, TABLE)
    everything = await chunk(node, db_id, empty.cursor)
    nothing = await chunk(node, db_id, everything.cursor)

    assert (nothing.entries, nothing.head.next, nothing.head.floor, nothing.head.eof) == ([], "1.1", "1.1", True)


async def test_whoever_waits_is_answered_by_the_next_commit(node: HistoryNode) -> None:
    """K2.3: long-poll; without a commit the wait is bounded and the answer is an empty chunk."""
    db_id = new_db_id()
    await node.sql(db_id, TABLE)
    after = (await chunk(node, db_id, Cursor.start(document_partition(db_id)))).cursor
    waiting = [asyncio.create_task(chunk(node, db_id, after, wait_ms=30_000)) for _ in range(3)]
    await eventually(lambda: any(feed.followers == 3 for feed, _ in node.history._feeds.values()))

    written = await node.sql(db_id, "INSERT INTO t VALUES (1, 'x')")

    for one in await asyncio.gather(*waiting):
        assert [entry.cursor.position for entry in one.entries] == [written]
    assert (await chunk(node, db_id, one.cursor, wait_ms=1)).entries == []
    await eventually(lambda: node.replication.in_flight_bytes == 0)


@pytest.mark.parametrize(
    ("query", "status", "slug"),
    [
        ({"segment": "1"}, 400, "invalid-parameter"),
        ({"offset": "1"}, 400, "invalid-parameter"),
        ({"segment": "1", "offset": "-1"}, 400, "invalid-parameter"),
        ({"segment": "1", "offset": "x"}, 400, "invalid-parameter"),
        ({"segment": "1", "offset": "99999999999999999999999"}, 400, "invalid-parameter"),
        ({"after": "1"}, 400, "invalid-parameter"),
        ({"segment": "1", "offset": "0", "max_bytes": "0"}, 400, "invalid-parameter"),
        ({"segment": "1", "offset": "0", "wait_ms": "30001"}, 400, "invalid-parameter"),
        ({"segment": "0", "offset": "1"}, 409, "other-history"),
        ({"segment": "2", "offset": "1"}, 409, "other-history"),
        ({"segment": "2", "offset": "0"}, 409, "other-history"),
        ({"segment": "1", "offset": "1", "hash": "00" * 16}, 409, "other-history"),
        ({"segment": "1", "offset": "0", "hash": "00" * 16}, 409, "other-history"),
        ({"segment": "1", "offset": "3"}, 416, "position-ahead"),
    ],
)
async def test_a_cursor_that_cannot_be_served_is_refused(
    node: HistoryNode, query: dict[str, str], status: int, slug: str
) -> None:
    """K2.3: every error is non-2xx, machine readable, and says how to go on."""
    db_id = new_db_id()
    for n in range(2):
        await node.sql(db_id, TABLE if not n else "INSERT INTO t VALUES (1, 'x')")

    answer = await node.get(db_id, "wal", **query)

    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:forge:problem:{slug}")
    if status == 409:
        assert answer.headers["forge-reseed"] == f"/api/v1/db/{db_id}/snapshot/latest"
    if status == 416:
        assert (answer.headers["forge-head"], answer.headers["forge-floor"]) == ("1.2", "1.1")


async def test_who_may_not_or_asks_for_nothing_hears_so(node: HistoryNode) -> None:
    """K2.3: 401, 404."""
    for path in ("wal?after=0", "changes", "snapshot/latest"):
        assert (await node.get("missing-one", path)).status_code == 404
        assert (await node.get("missing-one", path, {"authorization": "Bearer wrong"})).status_code == 401


async def test_below_the_floor_a_replica_is_told_to_start_again(node: HistoryNode) -> None:
    """K2.3: 410 with where to get a snapshot."""
    db_id = new_db_id()
    gone = Cursor(Position(1, 5), "ab" * 16, 0)  # a purged history looks as if it began later
    await append_note(node.log, document_partition(db_id), gone)

    answer = await node.get(db_id, "wal", segment=1, offset=4)

    assert (answer.status_code, answer.json()["type"]) == (410, "urn:forge:problem:history-gone")
    assert answer.headers["forge-reseed"] == f"/api/v1/db/{db_id}/snapshot/latest"
    assert answer.headers["forge-floor"] == "1.6"
    assert (await chunk(node, db_id, gone)).head.count == 1


async def test_too_many_chunks_at_a_time_are_put_off(node: HistoryNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """PR7: the memory of chunks on their way is bounded; past it 503 with Retry-After."""
    monkeypatch.setattr(replication, "IN_FLIGHT_BYTES_MAX", 1 << 20)
    db_id = new_db_id()
    await node.sql(db_id, TABLE)

    answer = await node.get(db_id, "wal", after="0", max_bytes=(1 << 20) + 1)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert (await node.get(db_id, "wal", after="0", max_bytes=1 << 20)).status_code == 200
    await eventually(lambda: node.replication.in_flight_bytes == 0)
