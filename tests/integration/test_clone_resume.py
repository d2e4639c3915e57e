"""Clones that were cut off: nobody sees them, and asking again finishes them."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from projectors.difference import first_difference
from projectors.document.domain import document_path
from projectors.outcome import Committed
from projectors.projection import connect, remove_database
from schemas.ids import PartitionId
from tests.documents import SCHEMA
from tests.querying import Documents, served_documents

DB = "notes"
ROWS = "INSERT INTO person (name, age) VALUES ('{0}', 20), ('{0}x', 3)"


async def _fill(documents: Documents) -> None:
    await documents.create(DB)
    for sql in _statements():
        await documents.done(DB, sql)
    for number in range(30):
        await documents.done(DB, ROWS.format(f"n{number}"))
        await documents.done(DB, f"INSERT INTO heap VALUES ('word{number}', x'00ff')")
        await documents.done(DB, f"INSERT INTO note VALUES ('t{number}', 'body')")
    await documents.done(DB, "DELETE FROM person WHERE id > 50")


def _statements() -> list[str]:
    """Return the statements of the schema one by one."""
    found: list[str] = []
    for line in SCHEMA.strip().splitlines():
        if line.startswith(" ") or line == "END;":
            found[-1] += "\n" + line
        else:
            found.append(line)
    return [sql.removesuffix(";") for sql in found]


def _after(documents: Documents, target: str, parts: int, then: Callable[[], object]) -> None:
    """Call `then` when so many parts of a clone were committed."""
    count = 0

    def heard(committed: Committed) -> None:
        nonlocal count
        count += committed.partition == PartitionId("doc", target) and bool(committed.facts)
        if count == parts:
            then()

    documents.partitions.listen(heard)


def _difference(directory: Path, target: str) -> Any:
    """Return the first difference between source and target, but for what each knows of itself."""
    opened = [connect(document_path(directory / "docs", db_id)) for db_id in (DB, target)]
    try:
        for db in opened:
            db.execute("BEGIN")
            db.execute("DELETE FROM _forge_command")
            db.execute("UPDATE _forge_document SET source = NULL, source_position = NULL, next_part = 0, copied = 0")
        return first_difference(*opened)
    finally:
        for db in opened:
            db.close()


@pytest.mark.parametrize("seed", range(4))
async def test_a_clone_that_was_cut_off_is_finished_by_the_next_request(
    start_nats: Any, tmp_path: Path, seed: int
) -> None:
    """PR4, PR5: cut off after some part, by a node that stops and loses its files; the source moves on meanwhile."""
    print("seed", seed)
    rng = random.Random(seed)
    server = await start_nats()
    async with served_documents(server, tmp_path, part_bytes=300) as documents:
        await _fill(documents)
        running = asyncio.create_task(documents.cloner.copy(DB, "copy", None, principal="root"))
        _after(documents, "copy", rng.randint(1, 12), running.cancel)
        with suppress(asyncio.CancelledError):
            await running
        assert running.cancelled()
        assert (await documents.exec("copy", "SELECT 1")).status_code == 404
        create = await documents.ask("POST", "/api/v1/db", {"db_id": "copy"})
        assert (create.status_code, create.json()["field"]) == (409, "db_id")
        begun = await documents.cloner.progress("copy")
        assert not begun.whole
    remove_database(document_path(tmp_path / "docs", "copy"))
    async with served_documents(server, tmp_path, part_bytes=300) as documents:
        other = await documents.ask("POST", f"/api/v1/db/{DB}/clone", {"db_id": "copy", "at": "1.1"})
        assert other.status_code == 409
        reply = await documents.ask("POST", f"/api/v1/db/{DB}/clone", {"db_id": "copy"})
        assert reply.status_code == 201, reply.text
        assert reply.json()["source_position"] == begun.source_position
    assert _difference(tmp_path, "copy") is None


async def test_two_requests_for_one_clone_make_one(start_nats: Any, tmp_path: Path) -> None:
    """PR5: at the same time they send the same parts, and each is taken once."""
    async with served_documents(await start_nats(), tmp_path, part_bytes=300) as documents:
        await _fill(documents)
        body = {"db_id": "copy"}
        replies = await asyncio.gather(*(documents.ask("POST", f"/api/v1/db/{DB}/clone", body) for _ in range(2)))
        assert [reply.status_code for reply in replies] == [201, 201]
    assert _difference(tmp_path, "copy") is None


async def test_a_clone_of_a_past_moment_is_made_of_history_alone(start_nats: Any, tmp_path: Path) -> None:
    """PR2, PR4: at every tenth position a clone holds what was there, though the live file has moved on."""
    async with served_documents(await start_nats(), tmp_path, part_bytes=300) as documents:
        await _fill(documents)
        position = documents.partitions[PartitionId("doc", DB)].position
        assert position is not None
        for index in range(5, position.index, 25):
            reply = await documents.ask("POST", f"/api/v1/db/{DB}/clone", {"db_id": f"c{index}", "at": f"1.{index}"})
            assert reply.status_code == 201, reply.text
            sql = "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE '\\_forge%' ESCAPE '\\' ORDER BY name"
            past = await documents.ask("POST", f"/api/v1/db/{DB}/query/exec?at=1.{index}", {"sql": sql})
            assert (await documents.done(f"c{index}", sql))["rows"] == past.json()["rows"]
            if index > 20:
                counted = "SELECT count(*), max(id) FROM person"
                past = await documents.ask("POST", f"/api/v1/db/{DB}/query/exec?at=1.{index}", {"sql": counted})
                assert (await documents.done(f"c{index}", counted))["rows"] == past.json()["rows"]
