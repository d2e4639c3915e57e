"""Queries over HTTP: classes, arguments, bounds, batches, streams, and repeating them safely."""

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio

from forge.stack.nats import NatsServer
from projectors.document.sql.bounds import SqlBounds
from schemas.values import SqlValue, encode
from tests.conftest import StartNats
from tests.notes import eventually
from tests.querying import ROOT_TOKEN, Documents, served_documents

FOR_EVER = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT i FROM n"
NDJSON = "application/x-ndjson"


@pytest_asyncio.fixture
async def documents(start_nats: StartNats, tmp_path: Path) -> AsyncIterator[Documents]:
    """A served document `notes` with an empty table."""
    async with served_documents(await start_nats(), tmp_path) as served:
        await served.create("notes")
        await served.done("notes", "CREATE TABLE t (id INTEGER PRIMARY KEY, body)")
        yield served


def problem(reply: Any) -> tuple[int, str]:
    """Return status and the last part of the type of a problem."""
    assert reply.headers["content-type"] == "application/problem+json", reply.text
    return reply.status_code, reply.json()["type"].rpartition(":")[2]


async def test_each_class_has_its_answer(documents: Documents) -> None:
    """P2.1, G-17: keys as the contract names them; rows of RETURNING are there."""
    made = await documents.exec("notes", "CREATE INDEX by_body ON t (body)")
    written = await documents.exec("notes", "INSERT INTO t (body) VALUES (?), (?)", ["a", "b"])
    returned = await documents.exec("notes", "UPDATE t SET body = upper(body) RETURNING id, body")
    found = await documents.exec("notes", "SELECT id, body FROM t WHERE id = :id", {"id": 2})

    assert made.json() == {"class": "admin", "rows_affected": 0, "last_insert_id": None}
    assert written.json() == {"class": "write", "rows_affected": 2, "last_insert_id": 2}
    rows = {"columns": ["id", "body"], "rows": [[1, "A"], [2, "B"]], "row_count": 2}
    assert returned.json() == {"class": "write", "rows_affected": 2, "last_insert_id": None, **rows}
    rows = {"columns": ["id", "body"], "rows": [[2, "B"]], "row_count": 1}
    assert found.json() == {"class": "read", **rows, "result_bytes": len('[[2,"B"]]')}
    assert [reply.headers["forge-position"] for reply in (made, written, returned, found)] == [
        "1.2",
        "1.3",
        "1.4",
        "1.4",
    ]
    assert found.headers["etag"] == '"1.4"'


async def test_random_values_survive_the_way_there_and_back(documents: Documents) -> None:
    """P2.1, P2.2, G-16: through arguments, RETURNING, reads and streams."""
    seed = random.randrange(2**32)
    chosen = random.Random(seed)
    kinds: list[Callable[[], SqlValue]] = [
        lambda: chosen.randint(-(2**63), 2**63 - 1),
        lambda: chosen.choice([0, -1, 2**53, -(2**53), 2**53 - 1, 2**63 - 1, -(2**63)]),
        lambda: chosen.choice([0.0, -1.5, 1e300, 5e-324, float("inf"), float("-inf"), 42.0]),
        lambda: "".join(chr(chosen.choice([65, 0x1F600, 0, 10, 34, 0xE9])) for _ in range(chosen.randrange(9))),
        lambda: chosen.randbytes(chosen.randrange(20)),
        lambda: None,
    ]
    for _ in range(25):
        values = [encode(chosen.choice(kinds)()) for _ in range(5)]
        marks = ", ".join("(?)" for _ in values)
        await documents.done("notes", "DELETE FROM t")
        returned = await documents.done("notes", f"INSERT INTO t (body) VALUES {marks} RETURNING body", values)
        found = await documents.done("notes", "SELECT body FROM t ORDER BY id")
        lines = await documents.exec("notes", "SELECT body FROM t ORDER BY id", accept=NDJSON)

        wanted = [[value] for value in values]
        assert returned["rows"] == wanted, seed
        assert found["rows"] == wanted, seed
        assert [json.loads(line) for line in lines.text.splitlines()[1:-1]] == wanted, seed
        types = await documents.done("notes", "SELECT typeof(body) FROM t ORDER BY id")
        assert types["rows"] == [[_type(value)] for value in values], seed


def _type(value: Any) -> str:
    match value:
        case {"$blob": _}:
            return "blob"
        case {"$int": _} | int():
            return "integer"
        case {"$real": _} | float():
            return "real"
    return "null" if value is None else "text"


async def test_a_blob_of_10_mib_goes_in_and_comes_out(documents: Documents) -> None:
    """Issue 3: too large for one answer, so it is read as a stream."""
    blob = base64.b64encode(random.Random(1).randbytes(10 << 20)).decode()
    await documents.done("notes", "INSERT INTO t VALUES (1, ?)", [{"$blob": blob}])

    assert problem(await documents.exec("notes", "SELECT body FROM t")) == (413, "result-too-large")
    lines = (await documents.exec("notes", "SELECT body FROM t", accept=NDJSON)).text.splitlines()
    assert json.loads(lines[1]) == [{"$blob": blob}]


async def test_unknown_keys_are_refused(documents: Documents) -> None:
    """Spec 2.4."""
    bodies: list[dict[str, Any]] = [
        {"sql": "SELECT 1", "more": 1},
        {"sql": "SELECT 1", "options": {"more": 1}},
        {"args": []},
    ]
    for body in bodies:
        assert problem(await documents.ask("POST", "/api/v1/db/notes/query/exec", body)) == (400, "invalid-body")


async def test_a_token_runs_statements_of_its_classes_only(documents: Documents) -> None:
    """P2.3, P2.4, P2.5, PR6: every class of token with every class of statement; what is refused changes nothing."""
    classes = {
        "read": "SELECT count(*) FROM t",
        "write": "WITH one AS (SELECT 7) INSERT INTO t (body) SELECT * FROM one RETURNING id",
        "admin": "CREATE TABLE other (a)",
    }
    for held in classes:
        token = await documents.mint((f"query.{held}", "notes", "/query/exec"))
        for needed, sql in classes.items():
            await documents.done("notes", "DROP TABLE IF EXISTS other")
            before = await documents.done("notes", "SELECT count(*) FROM t")
            for _ in range(2):
                reply = await documents.exec("notes", sql, token=token)
                if held != needed:
                    assert problem(reply) == (403, "forbidden"), (held, needed)
                    assert f"query.{needed}" in reply.json()["detail"], (held, needed)
                elif needed != "admin":
                    assert reply.status_code == 200, reply.text
            if held != needed:
                assert await documents.done("notes", "SELECT count(*) FROM t") == before
        assert problem(await documents.batch("notes", "SELECT 1", token=token)) == (403, "forbidden")
    assert problem(await documents.exec("notes", "ATTACH 'x' AS x")) == (403, "sql-not-allowed")
    assert problem(await documents.exec("notes", "BEGIN")) == (403, "sql-not-allowed")
    assert problem(await documents.exec("notes", "VACUUM INTO 'x'")) == (403, "sql-not-allowed")


async def test_documents_that_are_not_there_are_told_apart(documents: Documents) -> None:
    """Issue 3: never made, deleted, archived."""
    assert problem(await documents.exec("never", "SELECT 1")) == (404, "not-found")
    await documents.create("old")
    await documents.done("old", "CREATE TABLE t (a)")
    await documents.ask("POST", "/api/v1/db/old/archive")
    assert (await documents.exec("old", "SELECT * FROM t")).status_code == 200
    assert problem(await documents.exec("old", "INSERT INTO t VALUES (1)")) == (409, "document-archived")
    await documents.ask("DELETE", "/api/v1/db/old")
    assert problem(await documents.exec("old", "SELECT * FROM t")) == (410, "document-deleted")


async def test_one_row_too_many_is_refused_and_the_stream_is_the_way_out(documents: Documents) -> None:
    """P2.6, PR7: the 5,001st row."""
    assert (await documents.done("notes", NUMBERS, [5000]))["row_count"] == 5000
    refused = await documents.exec("notes", NUMBERS, [5001])
    assert problem(refused) == (413, "result-too-large")
    assert NDJSON in refused.json()["fix"]
    assert problem(await documents.exec("notes", NUMBERS, [11], options={"max_rows": 10}))[0] == 413

    reply = await documents.exec("notes", NUMBERS, [50_000], accept=NDJSON)
    lines = reply.text.splitlines()
    assert reply.headers["content-type"] == NDJSON
    assert json.loads(lines[0]) == {"columns": ["i"]}
    assert [json.loads(line)[0] for line in lines[1:-1]] == list(range(1, 50_001))
    last = json.loads(lines[-1])
    assert last["row_count"] == 50_000
    assert last["result_bytes"] == sum(len(line) + 1 for line in lines[1:-1])
    assert last["position"] == reply.headers["forge-position"]


async def test_a_write_that_answers_too_much_does_not_happen(documents: Documents) -> None:
    """P2.6, PR3: the rows of RETURNING are bounded like those of a read, and those of a batch together."""
    sql = f"INSERT INTO t (body) {NUMBERS} RETURNING id"
    part = {"sql": sql, "args": [2501]}

    assert problem(await documents.exec("notes", sql, [5001])) == (413, "result-too-large")
    assert problem(await documents.batch("notes", part, part)) == (413, "result-too-large")
    assert (await documents.done("notes", "SELECT count(*) FROM t"))["rows"] == [[0]]
    assert (await documents.done("notes", sql, [5000]))["row_count"] == 5000


async def test_a_runaway_query_is_stopped_and_the_document_answers_at_once(documents: Documents) -> None:
    """P2.6: reads, writes and streams; a write that is stopped leaves nothing behind."""
    endless = f"INSERT INTO t (body) {FOR_EVER}"
    for _ in range(3):
        for sql, more in ((FOR_EVER, {}), (endless, {}), (FOR_EVER, {"accept": NDJSON})):
            reply = await documents.exec("notes", sql, options={"timeout_seconds": 0.1}, **more)
            assert problem(reply) == (408, "query-timeout"), sql
        assert (await documents.done("notes", "SELECT count(*) FROM t"))["rows"] == [[0]]
    assert (await documents.done("notes", "INSERT INTO t (body) VALUES (1)"))["rows_affected"] == 1


async def test_a_stream_that_breaks_off_says_why_in_its_last_line(documents: Documents) -> None:
    """Issue 3, NDJSON: what was sent cannot be unsaid, but nobody takes it for everything."""
    sql = f"SELECT i FROM ({NUMBERS}) UNION ALL SELECT abs(-9223372036854775807 - 1)"
    lines = (await documents.exec("notes", sql, [3000], accept=NDJSON)).text.splitlines()

    assert json.loads(lines[1]) == [1]
    assert json.loads(lines[-1])["problem"]["type"].endswith("invalid-sql")
    assert problem(await documents.exec("notes", "DELETE FROM t", accept=NDJSON)) == (400, "invalid-parameter")


async def test_a_client_that_leaves_a_stream_gives_its_connection_back(documents: Documents) -> None:
    """PR7: whoever stops reading holds nothing for longer than it takes to notice."""
    body = {"sql": f"SELECT i, hex(zeroblob(500)) FROM ({NUMBERS})", "args": [10_000_000]}
    headers = {"authorization": f"Bearer {ROOT_TOKEN}", "accept": NDJSON}
    url = f"{documents.url}/api/v1/db/notes/query/exec"
    for _ in range(12):
        async with documents.client.stream("POST", url, json=body, headers=headers) as reply:
            assert reply.status_code == 200
            async for line in reply.aiter_lines():
                if line.startswith("["):
                    break
    await eventually(lambda: not documents.api.streams.open_now)
    assert (await documents.done("notes", "SELECT 1"))["rows"] == [[1]]


async def test_a_client_that_leaves_takes_its_query_along(start_nats: StartNats, tmp_path: Path) -> None:
    """P0.8: nobody waits for the answer, so the query does not go on until its time is over."""
    async with served_documents(await start_nats(), tmp_path, SqlBounds(seconds=600)) as documents:
        await documents.create("notes")
        asking = [asyncio.create_task(documents.exec("notes", FOR_EVER)) for _ in range(6)]
        await eventually(lambda: documents.readers.turns.waiting == 2)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

        async with asyncio.timeout(60):
            assert (await documents.done("notes", "SELECT 1"))["rows"] == [[1]]
        assert not documents.readers.turns.waiting


async def test_a_batch_happens_together_or_not_at_all(documents: Documents) -> None:
    """Issue 3: the failed statement is named, nothing is changed."""
    done = await documents.batch(
        "notes",
        {"sql": "INSERT INTO t VALUES (1, ?)", "args": ["a"], "expect": {"rows_affected": 1}},
        "CREATE TABLE other (a)",
        "INSERT INTO other SELECT body FROM t",
        {"sql": "SELECT a FROM other", "expect": {"row_count": 1}},
    )
    assert done.status_code == 200, done.text
    assert [result["class"] for result in done.json()["results"]] == ["write", "admin", "write", "read"]
    assert done.json()["results"][3]["rows"] == [["a"]]

    for statement, expected in (
        ({"sql": "UPDATE t SET body = 1 WHERE id = 9", "expect": {"rows_affected": 1}}, (409, "expectation-failed")),
        ({"sql": "INSERT INTO t VALUES (2, 'one'), (2, 'two')"}, (409, "constraint")),
        ({"sql": "SELECT nope"}, (400, "invalid-sql")),
        ({"sql": "COMMIT"}, (403, "sql-not-allowed")),
        ({"sql": "SELECT ?"}, (400, "invalid-arguments")),
    ):
        refused = await documents.batch("notes", "DELETE FROM t", "DROP TABLE other", statement)
        assert problem(refused) == expected, refused.text
        assert refused.json()["field"].startswith("statements.2"), refused.text
        found = await documents.batch("notes", "SELECT count(*) FROM t", "SELECT count(*) FROM other")
        assert [result["rows"] for result in found.json()["results"]] == [[[1]], [[1]]]


async def test_a_batch_of_reads_sees_one_state(documents: Documents) -> None:
    """PR2: while somebody moves a row to and fro, the sum stays the same."""
    await documents.batch("notes", "CREATE TABLE a (n)", "CREATE TABLE b (n)", "INSERT INTO a VALUES (1)")
    stop = False

    async def move() -> None:
        for n in range(10_000):
            one, other = ("a", "b") if n % 2 == 0 else ("b", "a")
            await documents.batch("notes", f"DELETE FROM {one}", f"INSERT INTO {other} VALUES (1)")
            if stop:
                return

    moving = asyncio.create_task(move())
    for _ in range(50):
        found = await documents.batch("notes", "SELECT count(*) FROM a", "SELECT count(*) FROM b")
        results = found.json()["results"]
        assert results[0]["rows"][0][0] + results[1]["rows"][0][0] == 1
    stop = True
    await moving


async def test_a_failed_statement_alone_is_not_numbered(documents: Documents) -> None:
    """Issue 3: an index is named only where there are several."""
    alone = await documents.exec("notes", "INSERT INTO t VALUES ('x', 1)")
    batch = await documents.batch("notes", "INSERT INTO t VALUES ('x', 1)")

    assert "statement 0" not in alone.json()["detail"]
    assert batch.json()["detail"].startswith("statement 0: ")
    assert batch.json()["field"] == "statements.0"


async def test_a_writer_that_is_not_up_to_date_is_refused(documents: Documents) -> None:
    """Issue 3, If-Match: a position, with or without quotes; it holds for reads as well."""
    etag = (await documents.exec("notes", "SELECT count(*) FROM t")).headers["etag"]
    first = await documents.exec("notes", "INSERT INTO t (body) VALUES (1)", if_match=etag)
    second = await documents.exec("notes", "INSERT INTO t (body) VALUES (2)", if_match=etag)

    assert first.status_code == 200
    assert problem(second) == (412, "precondition-failed")
    assert problem(await documents.exec("notes", "SELECT 1", if_match=etag)) == (412, "precondition-failed")
    assert problem(await documents.batch("notes", "DELETE FROM t", if_match=etag)) == (412, "precondition-failed")
    assert problem(await documents.exec("notes", "DELETE FROM t", if_match='"x"')) == (400, "invalid-parameter")
    assert (await documents.done("notes", "SELECT count(*) FROM t"))["rows"] == [[1]]


async def test_a_read_waits_for_the_position_that_it_asks_for(documents: Documents) -> None:
    """DESIGN 10: read your own write."""
    written = await documents.exec("notes", "INSERT INTO t (body) VALUES (1)")
    reply = await documents.exec(
        "notes", "SELECT count(*) FROM t", forge_min_position=written.headers["forge-position"]
    )
    assert reply.json()["rows"] == [[1]]
    assert problem(await documents.exec("notes", "SELECT 1", forge_min_position="soon")) == (400, "invalid-parameter")


async def test_a_repeated_request_gets_the_first_answer(start_nats: StartNats, tmp_path: Path) -> None:
    """PR5: also for what could not happen twice, also after a restart; another request under the key is refused."""
    server: NatsServer = await start_nats()
    statements = [
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, body)", []),
        ("INSERT INTO t (body) VALUES (random()) RETURNING *", []),
        ("ALTER TABLE t RENAME COLUMN body TO content", []),
        ("UPDATE t SET content = ? WHERE id = 1", ["x"]),
        ("DROP TABLE t", []),
    ]
    first: list[Any] = []
    for _ in range(2):
        async with served_documents(server, tmp_path) as documents:
            if not first:
                await documents.create("notes")
                for n, (sql, args) in enumerate(statements):
                    first.append(await documents.exec("notes", sql, args, idempotency_key=f"key {n}"))
                    assert first[-1].status_code == 200, first[-1].text
            for n, (sql, args) in enumerate(statements):
                again = await documents.exec("notes", sql, args, idempotency_key=f"key {n}")
                assert (again.status_code, again.json()) == (200, first[n].json()), sql
                assert again.headers["forge-position"] == first[n].headers["forge-position"]
            other = await documents.exec("notes", "CREATE TABLE u (a)", idempotency_key="key 0")
            assert problem(other) == (422, "unprocessable")


async def test_many_clients_of_one_document_are_all_answered(documents: Documents) -> None:
    """P0.7: a hundred calls at the same time, reads and writes; every write is counted once."""
    writes = [documents.done("notes", "INSERT INTO t (body) VALUES (?)", [n]) for n in range(50)]
    reads = [documents.done("notes", "SELECT count(*) FROM t") for n in range(50)]
    await asyncio.gather(*writes, *reads)

    assert (await documents.done("notes", "SELECT count(*), count(DISTINCT body) FROM t"))["rows"] == [[50, 50]]
