"""Snapshots over HTTP: exact, consistent under load, resumable, bounded on disk, never half written."""

import asyncio
import base64
import hashlib
import itertools
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from events.chunk import open_chunk
from forge.stack.nats import NatsServer
from projectors.catch_up import fold_group
from projectors.digest import digest
from projectors.document.domain import document_domain, document_partition, document_path, document_spec
from projectors.document.sql.bounds import SqlBounds
from projectors.projection import Projection, connect, read_cursor
from schemas.ids import Position, escape
from schemas.snapshot import SnapshotMeta
from tests.history_node import HistoryNode, history_node, new_db_id
from tests.notes import eventually

PATH = "snapshot/latest"
TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, body)"


@pytest_asyncio.fixture
async def node(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[HistoryNode]:
    async with history_node(nats_server, tmp_path) as served:
        yield served


async def written(node: HistoryNode, rows: int = 20, bytes_each: int = 10) -> str:
    """Return a new document with some rows."""
    db_id = new_db_id()
    await node.sql(db_id, TABLE, "CREATE VIRTUAL TABLE words USING fts5(body)", "PRAGMA user_version = 7")
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
    await node.sql(db_id, f"{numbers} INSERT INTO t SELECT i, hex(randomblob({bytes_each})) FROM n")
    await node.sql(db_id, "INSERT INTO words SELECT body FROM t LIMIT 20")
    return db_id


async def test_a_snapshot_is_the_document_at_exactly_the_position_that_it_names(
    node: HistoryNode, tmp_path: Path
) -> None:
    """K3.2, K3.4: position, chain hash, content digest and checksum of the bytes; the log goes on from there."""
    db_id = await written(node)

    answer = await node.get(db_id, PATH)
    meta = SnapshotMeta.model_validate((await node.get(db_id, PATH, meta="true")).json())

    (tmp_path / "copy.db").write_bytes(answer.content)
    with closing(connect(tmp_path / "copy.db", readonly=True)) as copy:
        cursor = read_cursor(copy)
        assert copy.execute("PRAGMA integrity_check").get == "ok"
        assert copy.execute("SELECT count(*), (SELECT count(*) FROM words) FROM t").get == (20, 20)
        assert digest(copy) == answer.headers["forge-digest"] == meta.digest
        assert copy.pragma("user_version") == 7
        assert str(copy.pragma("page_size")) == answer.headers["forge-page-size"] == str(meta.page_size)
    with closing(connect(document_path(node.docs_dir, db_id), readonly=True)) as live:
        assert digest(live) == meta.digest
    assert (str(cursor.position), cursor.hash) == (answer.headers["forge-position"], answer.headers["forge-hash"])
    assert (meta.position, meta.hash, meta.cursor) == ("1.3", cursor.hash, {"segment": 1, "offset": 3})
    sha256 = hashlib.sha256(answer.content)
    assert meta.sha256 == sha256.hexdigest()
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"
    assert answer.headers["etag"] == f'"{meta.generation}"'
    assert meta.size_bytes == len(answer.content) == int(answer.headers["content-length"])
    following = await node.sql(db_id, "INSERT INTO t VALUES (1000, 'next')")
    chunk = await node.get(db_id, "wal", **meta.cursor, hash=meta.hash)
    found = open_chunk(chunk.content, document_partition(db_id), cursor)
    assert [entry.cursor.position for entry in found.entries] == [following] == [Position(1, meta.index + 1)]


async def test_a_snapshot_and_what_follows_give_the_state_of_the_node(nats_server: NatsServer, tmp_path: Path) -> None:
    """P0.10, G-23, K3.3, K3.5, PR2: taken while somebody writes all the time, who is never paused for it."""
    async with history_node(nats_server, tmp_path, fresh_s=0.0) as node:
        db_id = await written(node, rows=3000, bytes_each=100)
        stopping = False

        async def write() -> None:
            for n in itertools.count(10_000):
                await node.sql(
                    db_id, f"INSERT INTO t VALUES ({n}, 'x')", f"UPDATE t SET body = {n} WHERE id = {n % 50}"
                )
                if stopping:
                    return

        writing = asyncio.create_task(write())
        positions = []
        for number in range(8):
            answer = await node.get(db_id, PATH)
            path = tmp_path / f"{number}.db"
            path.write_bytes(answer.content)
            with closing(connect(path, readonly=True)) as copy:
                assert copy.execute("PRAGMA integrity_check").get == "ok"
                assert digest(copy) == answer.headers["forge-digest"]
                position = read_cursor(copy).position
                # one record per command: nothing is torn, nothing is missing
                assert copy.execute("SELECT count(*) FROM t WHERE id >= 10000").get == position.index - 3
            positions.append(position)
        stopping = True
        await writing

        assert positions == sorted(positions)
        assert positions[-1] > positions[0]
        domain = document_domain(tmp_path, SqlBounds())
        replica = Projection(document_spec(db_id, path, SqlBounds()), document_partition(db_id))
        with closing(replica), closing(connect(document_path(node.docs_dir, db_id), readonly=True)) as live:
            at = replica.cursor
            chunk = await node.get(db_id, "wal", segment=1, offset=at.position.index, hash=at.hash)
            fold_group(domain, [replica], open_chunk(chunk.content, document_partition(db_id), at).entries)
            assert replica.cursor == read_cursor(live)
            assert digest(replica.db) == digest(live)


async def test_a_download_that_broke_off_goes_on_although_the_document_has_moved(node: HistoryNode) -> None:
    """K3.1: ranges of one and the same file, by its ETag; another ETag begins anew."""
    db_id = await written(node, rows=500, bytes_each=1000)
    whole = await node.get(db_id, PATH)
    etag = whole.headers["etag"]
    await node.sql(db_id, "DELETE FROM t")
    newest = await node.get(db_id, PATH, {"forge-min-position": "1.4"})
    assert newest.headers["etag"] != etag

    rest = await node.get(db_id, PATH, {"range": "bytes=100000-", "if-range": etag})
    middle = await node.get(db_id, PATH, {"range": "bytes=100-199", "if-range": etag})
    end = await node.get(db_id, PATH, {"range": "bytes=-10", "if-range": etag})
    other = await node.get(db_id, PATH, {"range": "bytes=100-199", "if-range": '"1.1-0000000000000000"'})

    size = len(whole.content)
    assert [answer.status_code for answer in (rest, middle, end, other)] == [206, 206, 206, 200]
    assert whole.content[:100000] + rest.content == whole.content
    assert rest.headers["content-range"] == f"bytes 100000-{size - 1}/{size}"
    assert (middle.content, end.content) == (whole.content[100:200], whole.content[-10:])
    assert rest.headers["forge-position"] == whole.headers["forge-position"] == "1.3"
    assert other.content == newest.content


async def test_headers_alone_and_ranges_that_make_no_sense(node: HistoryNode) -> None:
    """K3.1: HEAD, If-None-Match, 416 for a range outside; what is no range is passed over."""
    db_id = await written(node)
    whole = await node.get(db_id, PATH)

    head = await node.client.head(f"/api/v1/db/{db_id}/{PATH}")
    known = await node.get(db_id, PATH, {"if-none-match": whole.headers["etag"]})
    outside = await node.get(db_id, PATH, {"range": f"bytes={len(whole.content)}-"})
    several = await node.get(db_id, PATH, {"range": "bytes=0-1,5-6"})

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", whole.headers["etag"])
    assert (outside.status_code, outside.headers["content-range"]) == (416, f"bytes */{len(whole.content)}")
    assert (several.status_code, several.content) == (200, whole.content)


async def test_one_snapshot_serves_all_who_ask_at_the_same_position(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR7: a hundred new replicas cost one copy; a write later there is another, which names the one before."""
    async with history_node(nats_server, tmp_path, fresh_s=3600) as node:
        await _serves_all(node)


async def _serves_all(node: HistoryNode) -> None:
    db_id = await written(node)
    answers = await asyncio.gather(*(node.get(db_id, PATH, meta="true") for _ in range(20)))
    first = SnapshotMeta.model_validate(answers[0].json())
    assert all(answer.json() == answers[0].json() for answer in answers)
    await node.sql(db_id, "INSERT INTO t VALUES (1000, 'x')")

    fresh = SnapshotMeta.model_validate((await node.get(db_id, PATH, meta="true")).json())
    second = SnapshotMeta.model_validate(
        (await node.get(db_id, PATH, {"forge-min-position": "1.4"}, meta="true")).json()
    )

    assert fresh == first
    assert (second.position, second.previous) == ("1.4", first.generation)


async def test_the_disk_that_snapshots_take_is_bounded(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR7: the newest two of each document, a total, and nothing that nobody asks for any more."""
    async with history_node(nats_server, tmp_path, fresh_s=0.0, bytes_max=400_000, idle_s=3600) as node:
        one, other = await written(node, 10), await written(node, rows=100, bytes_each=1000)
        for n in range(5):
            await node.sql(one, f"INSERT INTO t VALUES ({1000 + n}, 'x')")
            await node.get(one, PATH)
        assert len(list((tmp_path / "snapshots" / escape(one)).iterdir())) == 2

        for n in range(2):
            await node.sql(other, f"INSERT INTO t VALUES ({1000 + n}, 'x')")
            await node.get(other, PATH)
        files = list((tmp_path / "snapshots").rglob("*.db"))
        assert sum(path.stat().st_size for path in files) <= 400_000
        assert files

    async with history_node(nats_server, tmp_path, idle_s=3) as node:
        await node.get(one, PATH)
        assert len(list((tmp_path / "snapshots").rglob("*.db"))) == 1
        await eventually(lambda: not list((tmp_path / "snapshots").rglob("*.db")))


async def test_what_an_earlier_process_left_is_not_served(nats_server: NatsServer, tmp_path: Path) -> None:
    """K3.3: killed at any step, half a copy is never taken for a snapshot."""
    async with history_node(nats_server, tmp_path) as node:
        db_id = await written(node)
        good = await node.get(db_id, PATH)
        generation = good.headers["etag"].strip('"')
    folder = tmp_path / "snapshots" / escape(db_id)
    folder.mkdir(parents=True)
    (folder / f"{generation}.db").write_bytes(good.content[:4096])
    (folder / "01ABC.part").write_bytes(b"half a copy")

    async with history_node(nats_server, tmp_path) as node:
        answer = await node.get(db_id, PATH, {"if-range": good.headers["etag"]})

        assert answer.headers["forge-digest"] == good.headers["forge-digest"]
        assert answer.headers["content-length"] == str(len(answer.content)) == str(len(good.content))
        assert [path.suffix for path in folder.iterdir()] == [".db"]


async def test_a_damaged_document_gives_no_snapshot(node: HistoryNode) -> None:
    """K3.6: integrity is checked before anything is served; nothing half done is left."""
    db_id = await written(node, rows=2000, bytes_each=200)
    path = document_path(node.docs_dir, db_id)
    with closing(connect(path)) as db:
        read_cursor(db)  # a connection that has read nothing yet checkpoints nothing
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    raw = bytearray(path.read_bytes())
    for at in range(8192, len(raw), 4096):
        raw[at : at + 64] = b"\xff" * 64
    path.write_bytes(raw)

    answer = await node.get(db_id, PATH)

    assert (answer.status_code, answer.json()["type"]) == (500, "urn:forge:problem:internal")
    assert not list((node.directory / "snapshots").rglob("*.*"))


@pytest.mark.parametrize("page_size", [512, 65536])
async def test_any_page_size_can_be_copied(node: HistoryNode, page_size: int) -> None:
    """K3.3: works for any page size."""
    db_id = new_db_id()
    path = document_path(node.docs_dir, db_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(connect(path)) as db:
        db.execute(f"PRAGMA page_size = {page_size}")
        db.execute("CREATE TABLE x (y)")
        db.execute("DROP TABLE x")
    await node.sql(db_id, TABLE, "INSERT INTO t VALUES (1, 'x')")

    answer = await node.get(db_id, PATH)

    assert answer.headers["forge-page-size"] == str(page_size)
    assert len(answer.content) % page_size == 0
