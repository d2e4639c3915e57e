"""The change feed over HTTP: pages, live events, resumption, filters, the newest first."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from api.change_pages import PAGE_BYTES
from forge.stack.nats import NatsServer
from projectors.document.domain import document_partition
from projectors.document.history import feed
from projectors.outcome import Committed
from schemas.changes import Change, ChangesPage
from schemas.ids import Position
from schemas.messages import PruneMessages
from tests.history_node import Frame, HistoryNode, history_node, new_db_id
from tests.notes import append_note, eventually
from tests.typed_commands import acquire, publish, receive, release, renew

SEED = 20261120
SEEN = "CREATE TRIGGER note AFTER INSERT ON messages BEGIN INSERT INTO seen VALUES (new.id); END"
TABLES = ("CREATE TABLE t (id INTEGER PRIMARY KEY, body)", "CREATE TABLE other (id INTEGER PRIMARY KEY)")


@pytest_asyncio.fixture
async def node(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[HistoryNode]:
    async with history_node(nats_server, tmp_path, heartbeat_s=0.2) as served:
        yield served


async def take(node: HistoryNode, db_id: str, count: int, **query: Any) -> list[Frame]:
    """Return so many change frames from the feed."""
    found: list[Frame] = []
    async with asyncio.timeout(30), aclosing(node.frames(db_id, **query)) as frames:
        async for frame in frames:
            if frame.event == "change":
                found.append(frame)
                if len(found) == count:
                    break
    return found


async def test_a_page_tells_who_changed_what_and_when(node: HistoryNode) -> None:
    """P0.11: every commit is one event with kind, time and position; a refused one is none."""
    db_id = new_db_id()
    created = await node.sql(db_id, *TABLES)
    written = await node.sql(db_id, "INSERT INTO t VALUES (1, 'one')", principal="token:7")
    with pytest.raises(Exception, match="UNIQUE"):
        await node.sql(db_id, "INSERT INTO other VALUES (5)", "INSERT INTO t VALUES (1, 'again')")

    page = await node.page(db_id, after="0")

    ChangesPage.model_validate(page)
    schema, insert = page["changes"]
    assert [change["op"] for change in schema["changes"]] == ["ddl", "ddl"]
    assert (insert["principal"], insert["kind"], insert["position"]) == ("token:7", "sql.executed", str(written))
    assert insert["statements"][0]["sql"] == "INSERT INTO t VALUES (1, 'one')"
    assert insert["changes"] == [
        {"op": "insert", "table": "t", "key": {"id": 1}, "old": None, "new": {"id": 1, "body": "one"}}
    ]
    assert (page["next"], page["head"], page["eof"]) == (str(written), str(written), True)
    assert (await node.page(db_id, after=str(created)))["changes"] == [insert]


async def test_messages_webhooks_and_leases_are_told_like_rows(node: HistoryNode) -> None:
    """P0.11: by their facts, or by what triggers of the user made of them; the tables that Forge made are told once."""
    db_id = new_db_id()
    await node.command(db_id, publish("t", b"one", retain=True))
    await node.command(db_id, receive("hook", b"{}"))
    await node.command(db_id, acquire("r", by="token:7"), renew("r"), release("r"))
    await node.sql(db_id, "CREATE TABLE seen (id INTEGER PRIMARY KEY)", SEEN)
    await node.command(db_id, publish("t", b"two"), PruneMessages(max_count=1))

    page = await node.page(db_id, after="0")

    ChangesPage.model_validate(page)
    told = [
        (change["kind"], [(row["op"], row.get("table", "")) for row in change["changes"]]) for change in page["changes"]
    ]
    made, *told = told
    assert made[0] == "system.migrated"
    assert told == [
        ("messages.published", [("insert", "messages"), ("put", "retained_messages")]),
        ("webhook.received", [("insert", "webhook_inbox")]),
        ("lease.acquired", [("put", "fencing_tokens"), ("insert", "leases")]),
        ("lease.renewed", [("update", "fencing_tokens"), ("update", "leases")]),
        ("lease.released", [("update", "fencing_tokens"), ("update", "leases")]),
        ("sql.executed", [("ddl", ""), ("ddl", "")]),
        ("messages.published", [("insert", "messages"), ("insert", "seen")]),
        ("messages.pruned", [("delete", "messages")]),
    ]
    only = await node.page(db_id, after="0", table="webhook_inbox")
    assert [change["kind"] for change in only["changes"]] == ["system.migrated", "webhook.received", "sql.executed"]


async def test_without_a_position_nothing_old_is_told(node: HistoryNode) -> None:
    """G-18: a plain subscription begins now, and says where that is."""
    db_id = new_db_id()
    await node.sql(db_id, *TABLES)
    head = await node.sql(db_id, "INSERT INTO t VALUES (1, 'old')")

    page = await node.page(db_id)
    assert (page["changes"], page["next"], page["eof"]) == ([], str(head), True)
    async with asyncio.timeout(30), aclosing(node.frames(db_id)) as frames:
        first = await anext(frames)
        assert (first.event, first.id, first.data) == ("heartbeat", str(head), {"position": str(head)})
        written = await node.sql(db_id, "INSERT INTO t VALUES (2, 'new')")
        async for frame in frames:
            if frame.event == "change":
                assert frame.id == str(written)
                assert frame.data["changes"][0]["new"] == {"id": 2, "body": "new"}
                break


async def test_pages_hold_whole_commits_and_lead_from_one_to_the_next(node: HistoryNode) -> None:
    """K2.1: following `next` tells every commit once, however small the pages are."""
    db_id = new_db_id()
    await node.sql(db_id, *TABLES)
    await asyncio.gather(*(node.sql(db_id, f"INSERT INTO t VALUES ({n}, 'x')") for n in range(50)))

    told, after, eof = [], "0", False
    while not eof:
        page = await node.page(db_id, after=after, limit=7)
        assert page["changes"]
        told += page["changes"]
        after, eof = page["next"], page["eof"]

    keys = [row["key"]["id"] for one in told for row in one["changes"] if row["op"] == "insert"]
    assert sorted(keys) == list(range(50))
    assert [one["event"] for one in told] == [one["event"] for one in (await node.page(db_id, after=0))["changes"]]
    assert len({one["event"] for one in told}) == 51


async def test_a_long_poll_waits_for_the_first_change_that_is_wanted(node: HistoryNode) -> None:
    """Issue 3, deliverable 5: changes of other tables do not end the wait, but move the position."""
    db_id = new_db_id()
    head = await node.sql(db_id, *TABLES)
    waiting = asyncio.create_task(node.page(db_id, after=str(head), table="T", wait_ms=30_000))
    await node.sql(db_id, "INSERT INTO other VALUES (1)")
    written = await node.sql(db_id, "INSERT INTO t VALUES (1, 'x')")

    page = await waiting
    assert [one["position"] for one in page["changes"]] == [str(written)]

    await node.sql(db_id, "INSERT INTO other VALUES (2)")
    empty = await node.page(db_id, after=str(written), table="t", wait_ms=1)
    assert (empty["changes"], empty["next"], empty["eof"]) == ([], str(written.next()), True)


async def test_a_filter_keeps_other_tables_away_but_not_the_schema(node: HistoryNode) -> None:
    """Issue 3: table filters; whoever follows a table hears of every change of the schema."""
    db_id = new_db_id()
    await node.sql(db_id, *TABLES)
    both = await node.sql(db_id, "INSERT INTO t VALUES (1, 'x')", "INSERT INTO other VALUES (1)")
    await node.sql(db_id, "INSERT INTO other VALUES (2)")
    renamed = await node.sql(db_id, "ALTER TABLE t RENAME COLUMN body TO text")

    page = await node.page(db_id, after="0", table=["t", "elsewhere"])

    assert [one["position"] for one in page["changes"]] == ["1.1", str(both), str(renamed)]
    assert {row["table"] for row in page["changes"][1]["changes"]} == {"t"}
    assert page["changes"][1]["tables"] == ["t"]


async def test_a_stream_that_is_cut_resumes_without_gap_or_repetition(node: HistoryNode) -> None:
    """K2.2, G-19: reconnecting with `Last-Event-ID` at random moments tells every commit exactly once."""
    chance = random.Random(SEED)
    db_id = new_db_id()
    await node.sql(db_id, *TABLES)
    count = 120

    async def write() -> None:
        for n in range(count):
            await node.sql(db_id, f"INSERT INTO t VALUES ({n}, 'x')")

    writing = asyncio.create_task(write())
    told: list[int] = []
    last = "1.0"
    async with asyncio.timeout(60):
        while len(told) < count:
            left = chance.randint(1, 20)
            async with aclosing(node.frames(db_id, {"last-event-id": last})) as frames:
                async for frame in frames:
                    last = frame.id or last
                    if frame.event == "change":
                        told += [row["key"]["id"] for row in frame.data["changes"] if row["op"] == "insert"]
                    left -= 1
                    if left <= 0 or len(told) >= count:
                        break
    await writing

    assert told == list(range(count)), f"seed {SEED}"


async def test_an_excluded_commit_moves_the_heartbeat(node: HistoryNode) -> None:
    """Issue 3: whoever follows a quiet table does not read everything again after a reconnect."""
    db_id = new_db_id()
    await node.sql(db_id, *TABLES)
    async with asyncio.timeout(30), aclosing(node.frames(db_id, table="t")) as frames:
        await anext(frames)
        passed = await node.sql(db_id, "INSERT INTO other VALUES (1)")
        async for frame in frames:
            assert frame.event == "heartbeat"
            if frame.id == str(passed):
                break


async def test_a_large_commit_comes_in_parts_of_which_only_the_last_can_be_resumed_from(node: HistoryNode) -> None:
    """PR7: 100,000 rows never make a frame of their size; a broken transfer begins the commit again."""
    db_id = new_db_id()
    created = await node.sql(db_id, *TABLES)
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
    written = await node.sql(db_id, f"{numbers} INSERT INTO t SELECT i, 'row ' || i FROM n")
    parts: list[Frame] = []
    async with asyncio.timeout(60), aclosing(node.frames(db_id, after=str(created))) as frames:
        async for frame in frames:
            if frame.event == "change":
                parts.append(frame)
                if not frame.data["more"]:
                    break

    assert len(parts) > 10
    assert [part.id for part in parts] == [None] * (len(parts) - 1) + [str(written)]
    assert [part.data["part"] for part in parts] == list(range(len(parts)))
    assert sum(len(part.data["changes"]) for part in parts) == 100_000
    for part in parts:
        Change.model_validate(part.data)
    page = await node.page(db_id, after=str(created), limit=1)
    assert [one["part"] for one in page["changes"]] == list(range(len(parts)))


async def test_the_newest_come_first_and_lead_back_to_the_beginning(node: HistoryNode) -> None:
    """Issue 3: `forge db log`; without rows unless asked for."""
    db_id = new_db_id()
    await node.sql(db_id, *TABLES)
    for n in range(10):
        await node.sql(db_id, f"INSERT INTO t VALUES ({n}, 'x')")

    told, before, eof = [], "", False
    while not eof:
        page = await node.page(db_id, before=before, limit=4)
        told += page["changes"]
        before, eof = page["next"], page["eof"]

    assert [one["position"] for one in told] == [f"1.{n}" for n in range(11, 0, -1)]
    assert all(one["changes"] is None for one in told)
    newest = await node.page(db_id, before="", limit=1, rows="true")
    assert newest["changes"][0]["changes"][0]["key"] == {"id": 9}
    assert (await node.page(db_id, before="1.1"))["changes"] == []
    assert (await node.page(new_db_id(), before=""))["eof"] is True


async def test_a_page_of_the_newest_is_bounded_in_bytes(node: HistoryNode) -> None:
    """PR7: what does not fit comes with the next page."""
    db_id = new_db_id()
    await node.sql(db_id, *TABLES)
    for n in range(6):
        await node.sql(db_id, f"INSERT INTO t VALUES ({n}, hex(randomblob({PAGE_BYTES // 8})))")

    told, before, eof, pages = [], "", False, 0
    while not eof:
        page = await node.page(db_id, before=before, rows="true")
        told += page["changes"]
        before, eof, pages = page["next"], page["eof"], pages + 1

    assert [one["position"] for one in told] == [f"1.{n}" for n in range(7, 0, -1)]
    assert pages > 1


@pytest.mark.parametrize(
    ("query", "status", "slug"),
    [
        ({"after": "2.1"}, 409, "other-history"),
        ({"after": "1.99"}, 416, "position-ahead"),
        ({"before": "1.99"}, 416, "position-ahead"),
        ({"after": "x"}, 400, "invalid-parameter"),
        ({"after": "1.1", "before": "1.1"}, 400, "invalid-parameter"),
        ({"limit": "0"}, 400, "invalid-parameter"),
        ({"rows": "perhaps"}, 400, "invalid-parameter"),
        ({"wait_ms": "99999"}, 400, "invalid-parameter"),
    ],
)
async def test_what_cannot_be_told_is_refused(node: HistoryNode, query: dict[str, str], status: int, slug: str) -> None:
    """K0.2: an unknown cursor is an explicit error, never an empty page."""
    db_id = new_db_id()
    await node.sql(db_id, *TABLES)

    answer = await node.get(db_id, "changes", **query)

    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:forge:problem:{slug}")
    assert (await node.get("missing-one", "changes", **query)).status_code == 404


async def test_followers_share_one_reader_and_one_that_falls_behind_misses_nothing(
    node: HistoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PR7: the ring is bounded; whoever is slower than it reads the log by itself."""
    monkeypatch.setattr(feed, "RING_RECORDS", 4)
    db_id = new_db_id()
    await node.sql(db_id, *TABLES)
    slow = node.frames(db_id)
    await anext(slow)
    quick = [asyncio.create_task(take(node, db_id, 30, after="1.1")) for _ in range(5)]
    positions = [str(await node.sql(db_id, f"INSERT INTO t VALUES ({n}, hex(randomblob(40000)))")) for n in range(30)]

    for found in await asyncio.gather(*quick):
        assert [frame.id for frame in found] == positions
    seen = []
    async with asyncio.timeout(30), aclosing(slow) as frames:
        async for frame in frames:
            seen += [frame.id] if frame.event == "change" else []
            if len(seen) == 30:
                break
    assert seen == positions
    assert len(node.history._feeds) == 1


async def test_a_listener_in_the_process_hears_commits_in_order_and_harms_nobody(node: HistoryNode) -> None:
    """P0.12: a hook gets every commit in its order; one that fails neither blocks nor fails writes."""
    heard: list[Position] = []

    def keep(committed: Committed) -> None:
        if committed.facts:  # there is news of the opening too
            heard.append(committed.position)

    def fail(committed: Committed) -> None:
        raise RuntimeError("broken, as asked")

    node.partitions.listen(fail)
    node.partitions.listen(keep)
    db_id = new_db_id()
    created = await node.sql(db_id, *TABLES)
    written = [await node.sql(db_id, f"INSERT INTO t VALUES ({n}, 'x')") for n in range(5)]

    await eventually(lambda: len(heard) >= 6)
    assert heard == [created, *written]


async def test_a_damaged_log_ends_every_stream_with_its_reason(node: HistoryNode) -> None:
    """DESIGN 3.6: a record that does not follow is never skipped; whoever asks later hears it too."""
    db_id = new_db_id()
    await node.sql(db_id, *TABLES)
    end = await node.history.end(document_partition(db_id))
    async with asyncio.timeout(30), aclosing(node.frames(db_id, after="0")) as frames:
        async for frame in frames:
            if frame.event == "change":
                break
        await append_note(node.log, document_partition(db_id), replace(end, hash="00" * 16))
        last = [frame async for frame in frames if frame.event != "heartbeat"]

    assert [frame.event for frame in last] == ["error"]
    assert last[0].data["type"] == "urn:forge:problem:partition-stopped"
    answer = await node.get(db_id, "changes", after=str(end.position))
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:forge:problem:partition-stopped")


async def test_a_stream_ends_when_its_document_is_deleted(node: HistoryNode) -> None:
    """Issue 3: nothing of a deleted document is told any more."""
    db_id = new_db_id()
    await node.sql(db_id, *TABLES)
    async with asyncio.timeout(30), aclosing(node.frames(db_id)) as frames:
        await anext(frames)
        node.known.deleted.add(db_id)
        last = [frame async for frame in frames if frame.event != "heartbeat"]

    assert [(frame.event, frame.data["status"]) for frame in last] == [("error", 404)]
