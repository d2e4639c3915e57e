"""Pushing changes, reading the past and cloning over HTTP, on a real log."""

import asyncio
import base64
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import httpx2
import pytest
import pytest_asyncio

from forge.stack.nats import NatsServer
from projectors.document.domain import document_path
from projectors.document.replay import apply_steps, as_recorded
from schemas.document import ChangesetStep
from tests.pushing import recording
from tests.querying import Documents, served_documents

DB = "notes"
TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)"


@pytest_asyncio.fixture
async def documents(start_nats: Any, tmp_path: Path) -> AsyncIterator[Documents]:
    """Serve documents, one of which has a table with two rows."""
    server: NatsServer = await start_nats()
    async with served_documents(server, tmp_path) as served:
        await served.create(DB)
        await served.done(DB, TABLE)
        await served.done(DB, "INSERT INTO t VALUES (1, 'one'), (2, 'two')")
        yield served


class Copy:
    """A copy of the document as a client has it, with the session that records what it does."""

    def __init__(self, directory: Path, position: str) -> None:
        self.position = position
        self.db = apsw.Connection(":memory:")
        with (
            closing(apsw.Connection(str(document_path(directory / "docs", DB)))) as live,
            self.db.backup("main", live, "main") as backup,
        ):
            backup.step()
        self._session = recording(self.db)

    def edit(self, *statements: str) -> bytes:
        """Change it; return all that was changed since it was taken."""
        for sql in statements:
            self.db.execute(sql)
        return self._session.changeset()

    def rows(self) -> list[Any]:
        """Return all rows."""
        return self.db.execute("SELECT id, body FROM t ORDER BY id").fetchall()

    def close(self) -> None:
        """Close it."""
        self._session.close()
        self.db.close()


async def _copy(documents: Documents, directory: Path) -> Copy:
    reply = await documents.exec(DB, "SELECT 1")
    return Copy(directory, reply.headers["forge-position"])


async def _push(documents: Documents, copy: Copy, changeset: bytes, **more: Any) -> httpx2.Response:
    body = {"base": copy.position, "changeset": base64.b64encode(changeset).decode(), **more}
    return await documents.ask("POST", f"/api/v1/db/{DB}/sync/push", body)


async def _rows(documents: Documents, db_id: str = DB, at: str = "") -> Any:
    path = f"/api/v1/db/{db_id}/query/exec{f'?at={at}' if at else ''}"
    reply = await documents.ask("POST", path, {"sql": "SELECT id, body FROM t ORDER BY id"})
    assert reply.status_code == 200, reply.text
    return reply.json()["rows"]


async def test_changes_of_a_copy_come_back(documents: Documents, tmp_path: Path) -> None:
    """Deliverable 7 of documents, PR5: applied once, however often and by whichever key they are sent."""
    with closing(await _copy(documents, tmp_path)) as copy:
        own = copy.edit("UPDATE t SET body = 'mine' WHERE id = 1", "INSERT INTO t VALUES (3, 'three')")
        first = await _push(documents, copy, own)
        assert first.status_code == 200, first.text
        assert first.json() == {"applied": 2, "omitted": 0, "replaced": 0, "rebased": None, "rebase_refused": None}
        await documents.done(DB, "DELETE FROM t WHERE id = 3")
        await documents.done(DB, "ALTER TABLE t ADD COLUMN more")
        again = await _push(documents, copy, own)
        assert again.json() == first.json()
        assert again.headers["forge-position"] == first.headers["forge-position"]
    assert await _rows(documents) == [[1, "mine"], [2, "two"]]


async def test_a_conflict_changes_nothing_and_is_told(documents: Documents, tmp_path: Path) -> None:
    """409 with the rows; the same changes fit once a policy says who wins, and the copy can follow."""
    with closing(await _copy(documents, tmp_path)) as copy:
        own = copy.edit("UPDATE t SET body = 'mine' WHERE id = 1", "INSERT INTO t VALUES (3, 'mine')")
        await documents.done(DB, "UPDATE t SET body = 'theirs' WHERE id = 1")
        await documents.done(DB, "INSERT INTO t VALUES (4, 'four')")
        refused = await _push(documents, copy, own)
        assert refused.status_code == 409
        assert refused.json()["type"] == "urn:forge:problem:sync-conflict"
        assert [(c["kind"], c["key"]) for c in refused.json()["conflicts"]] == [("changed", {"id": 1})]
        assert await _rows(documents) == [[1, "theirs"], [2, "two"], [4, "four"]]
        taken = await _push(documents, copy, own, policy="server", rebase=True)
        assert taken.status_code == 200, taken.text
        assert (taken.json()["applied"], taken.json()["omitted"]) == (1, 1)
        with as_recorded(copy.db):
            apply_steps(copy.db, [ChangesetStep(data=base64.b64decode(taken.json()["rebased"]))])
        assert [list(row) for row in copy.rows()] == await _rows(documents)


async def test_random_copies_that_push_and_rebase_end_as_the_node(documents: Documents, tmp_path: Path) -> None:
    """Deliverable 7 of documents: whatever the policy, a copy that applies `rebased` holds what the node holds."""
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)

    def edit() -> str:
        number = rng.randint(1, 6)
        return rng.choice(
            [
                f"INSERT OR REPLACE INTO t VALUES ({number}, 'i{rng.randint(0, 2)}')",
                f"UPDATE t SET body = 'u{rng.randint(0, 2)}' WHERE id = {number}",
                f"DELETE FROM t WHERE id = {number}",
            ]
        )

    for _ in range(25):
        with closing(await _copy(documents, tmp_path)) as copy:
            own = copy.edit(*(edit() for _ in range(rng.randint(1, 4))))
            for _ in range(rng.randint(0, 3)):
                await documents.done(DB, edit())
            reply = await _push(documents, copy, own, policy=rng.choice(["fail", "server", "client"]), rebase=True)
            if reply.status_code == 409:
                continue
            assert reply.status_code == 200, reply.text
            with as_recorded(copy.db):
                apply_steps(copy.db, [ChangesetStep(data=base64.b64decode(reply.json()["rebased"]))])
            assert [list(row) for row in copy.rows()] == await _rows(documents)


async def test_a_table_that_got_another_shape_since_is_refused(documents: Documents, tmp_path: Path) -> None:
    """A renamed column has the same place; only history knows that it means something else."""
    with closing(await _copy(documents, tmp_path)) as copy:
        own = copy.edit("INSERT INTO t VALUES (3, 'three')")
        await documents.done(DB, "CREATE TABLE other (a)")
        await documents.done(DB, "CREATE INDEX by_body ON t (body)")
        await documents.done(DB, "ALTER TABLE t RENAME COLUMN body TO text")
        reply = await _push(documents, copy, own)
        assert reply.status_code == 409
        assert "other columns" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("change", "status"),
    [({"base": "1.999"}, 409), ({"base": "7.1"}, 409), ({"base": "x"}, 400), ({"changeset": "%"}, 400)],
)
async def test_a_malformed_push_is_refused(documents: Documents, change: dict[str, str], status: int) -> None:
    """The problem names the field."""
    body = {"base": "1.1", "changeset": "", **change}
    reply = await documents.ask("POST", f"/api/v1/db/{DB}/sync/push", body)
    assert reply.status_code == status, reply.text
    assert reply.json()["field"] in change


async def test_reads_see_the_past_and_nothing_else_can(documents: Documents) -> None:
    """Deliverable 8 of documents: `?at=` on exec, batch and streams; by position and by time."""
    before = await documents.exec(DB, "SELECT 1")
    position, then = before.headers["forge-position"], await documents.done(DB, "SELECT strftime('%FT%H:%M:%fZ')")
    await asyncio.sleep(0.002)  # the instant has milliseconds
    await documents.done(DB, "DELETE FROM t")
    assert await _rows(documents) == []
    for at in (position, then["rows"][0][0].replace("Z", "%2B00:00")):
        assert await _rows(documents, at=at) == [[1, "one"], [2, "two"]]
    path = f"/api/v1/db/{DB}/query"
    many = await documents.ask(
        "POST", f"{path}/batch?at={position}", {"statements": [{"sql": "SELECT count(*) FROM t"}]}
    )
    assert many.json()["results"][0]["rows"] == [[2]]
    assert many.headers["forge-position"] == position
    select = {"sql": "SELECT id FROM t"}
    stream = await documents.ask("POST", f"{path}/exec?at={position}", select, accept="application/x-ndjson")
    assert stream.text.splitlines()[1:3] == ["[1]", "[2]"]
    for sql in ("INSERT INTO t VALUES (9, 'x')", "DROP TABLE t"):
        for accept in ("application/json", "application/x-ndjson"):
            refused = await documents.ask("POST", f"{path}/exec?at={position}", {"sql": sql}, accept=accept)
            assert refused.status_code == 400, refused.text
    for at, status in (("1.99", 400), ("9.1", 409), ("yesterday", 400), ("2999-01-01", 400), ("", 400)):
        reply = await documents.ask("POST", f"{path}/exec?at={at}", select)
        assert (reply.status_code, reply.json()["field"]) == (status, "at"), at


async def test_the_past_needs_the_right_to_read(documents: Documents) -> None:
    """PR6: a token that may only write reads nothing of it."""
    token = await documents.mint(("query.write", DB))
    reply = await documents.ask("POST", f"/api/v1/db/{DB}/query/exec?at=1.1", {"sql": "SELECT 1"}, token)
    assert reply.status_code == 403


async def test_a_clone_is_a_document_of_its_own(documents: Documents) -> None:
    """Deliverable 8 of documents: now or at a moment, complete when it appears, found again by the same request."""
    source = f"/api/v1/db/{DB}/clone"
    earlier = (await documents.exec(DB, "SELECT 1")).headers["forge-position"]
    await documents.done(DB, "INSERT INTO t VALUES (3, 'three')")
    now = await documents.ask("POST", source, {"db_id": "copy", "name": "A copy"})
    assert now.status_code == 201, now.text
    assert (now.json()["name"], now.json()["owner"], now.json()["source"]) == ("A copy", "root", DB)
    assert (await documents.ask("POST", source, {"db_id": "old", "at": earlier})).status_code == 201
    await documents.done("copy", "INSERT INTO t VALUES (9, 'own')")
    assert await _rows(documents) == [[1, "one"], [2, "two"], [3, "three"]]
    assert await _rows(documents, "copy") == [[1, "one"], [2, "two"], [3, "three"], [9, "own"]]
    assert await _rows(documents, "old") == [[1, "one"], [2, "two"]]
    assert (await documents.ask("POST", source, {"db_id": "old", "at": earlier})).status_code == 200
    for body in ({"db_id": "old", "at": "1.1"}, {"db_id": DB}, {"db_id": "..."}, {"db_id": "x", "at": "1.99"}):
        reply = await documents.ask("POST", source, body)
        assert reply.status_code in (400, 409), body
        assert reply.json()["field"] in ("db_id", "at")


async def test_a_clone_needs_both_rights(documents: Documents) -> None:
    """PR6: to read the source, and to make the new one."""
    for scopes in ([("query.read", DB)], [("db.create", "copy")]):
        token = await documents.mint(*scopes)
        reply = await documents.ask("POST", f"/api/v1/db/{DB}/clone", {"db_id": "copy"}, token)
        assert reply.status_code == 403
    token = await documents.mint(("query.read", DB), ("db.create", "copy"))
    assert (await documents.ask("POST", f"/api/v1/db/{DB}/clone", {"db_id": "copy"}, token)).status_code == 201


async def test_any_sqlite_reads_a_copy_of_the_past(documents: Documents, tmp_path: Path) -> None:
    """Copies are plain SQLite files."""
    await _rows(documents, at="1.2")
    (path,) = (tmp_path / "past").glob("*/*.db")
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        assert db.execute("SELECT body FROM t ORDER BY id").fetchall() == [("one",), ("two",)]
