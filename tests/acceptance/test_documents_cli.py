"""Documents as a user meets them: the command line and the Python client against a node of its own."""

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from forge.client import ForgeClient, ForgeError, Scope
from forge.replica import FileRefused, Replica
from projectors.document.domain import document_path
from schemas.ids import Position
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import FORGE, NodeProcess
from tests.document_source import digest_of
from tests.notes import eventually

ROOT = Path(__file__).resolve().parents[2]
LINE_S = 60.0


@asynccontextmanager
async def running(node: NodeProcess, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command that does not end by itself. A shell may have had it ignore SIGINT, which would wait for ever."""
    process = await asyncio.create_subprocess_exec(
        *(str(FORGE), *arguments),
        env=node.environ | {"FORGE_URL": node.url, "FORGE_TOKEN": node.token},
        cwd=node.home,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> Any:
    """Return the next line of JSON that a command prints."""
    assert process.stdout is not None
    async with asyncio.timeout(LINE_S):
        raw = await process.stdout.readline()
    if not raw:
        _, err = await process.communicate()
        raise AssertionError(f"the command ended with {process.returncode}: {err.decode()}")
    return json.loads(raw)


async def sql(node: NodeProcess, *arguments: str) -> Any:
    """Run `forge db sql notes` and return its JSON."""
    done = await node.cli("db", "sql", "notes", *arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


async def test_a_watch_and_a_change_feed_survive_a_restart_of_the_node(start_node: StartNode) -> None:
    """D.2, P2.8: nothing that happened while the node was down is missed, nothing comes twice."""
    node = await start_node()
    port = node.url.rpartition(":")[2]
    assert (await node.cli("db", "create", "notes")).code == 0
    await sql(node, "create table note (id integer primary key, body text)")
    async with (
        running(node, "db", "watch", "notes", "select count(*) from note", "--json") as watch,
        running(node, "db", "changes", "notes", "--after", "0", "--json") as changes,
    ):
        assert (await line(watch))["rows"] == [[0]]
        assert (await line(changes))["changes"][0]["op"] == "ddl"
        await sql(node, "insert into note (body) values ('before')")
        assert (await line(watch))["rows"] == [[1]]
        assert (await line(changes))["changes"][0]["new"] == {"id": 1, "body": "before"}

        await node.stop()
        await restart_at(node, port)
        await sql(node, "insert into note (body) values ('after')")
        assert (await line(watch))["rows"] == [[2]]
        assert (await line(changes))["changes"][0]["new"] == {"id": 2, "body": "after"}


async def restart_at(node: NodeProcess, port: str) -> None:
    """Start the node again where it listened before, since clients know it by its address."""
    node.options = ("--listen", f"127.0.0.1:{port}")  # the last --listen of a command line wins
    await node.start()
    assert node.url.endswith(port)


async def test_a_replica_follows_through_kills_of_the_node(start_node: StartNode, tmp_path: Path) -> None:
    """PR2, K4.5: live, stalled while the node is down, live again with every answered write."""
    node = await start_node()
    port = node.url.rpartition(":")[2]
    async with node.client() as client:
        await client.documents.create("notes")
        await client.db("notes").exec("create table note (id integer primary key, body text)")
    file = tmp_path / "copy.db"
    async with Replica(node.url, node.token, "notes", file) as replica:
        for number in range(2):
            written = await replica.exec("insert into note (body) values (?)", [f"before {number}"])
            assert written.position is not None
            read = await replica.read("select count(*) from note")
            assert (read.scalar, read.position) == (2 * number + 1, written.position)
            os.kill(node.pid, signal.SIGKILL)
            await eventually(lambda: not node.runs)
            await restart_at(node, port)
            async with node.client() as client:
                last = await client.db("notes").exec("insert into note (body) values (?)", [f"after {number}"])
            assert last.position is not None
            await replica.wait(last.position, timeout_s=LINE_S)
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as other:
                assert other.execute("select count(*) from note").fetchone() == (2 * number + 2,)
        assert replica.status.reseeds == 0
        with pytest.raises(FileRefused):
            async with Replica(node.url, node.token, "notes", file):
                pass
    assert digest_of(file) == digest_of(document_path(node.settings.data_dir / "docs", "notes"))
    verified = await node.cli("replica", "notes", str(file), "--verify", "--json", "--url", node.url)
    assert json.loads(verified.out)["equal"], verified.err


async def test_a_replica_whose_token_is_revoked_says_so(start_node: StartNode, tmp_path: Path) -> None:
    """PR6: a token for the document alone is enough to follow it, and its end is the end."""
    node = await start_node()
    async with node.client() as client:
        await client.documents.create("notes")
        await client.db("notes").exec("create table note (id integer primary key)")
        minted = await client.tokens.mint("follower", [Scope(action="query.read", db_id="notes")])
        async with Replica(node.url, minted.token, "notes", tmp_path / "copy.db") as replica:
            assert (await replica.read("select count(*) from note")).scalar == 0
            with pytest.raises(ForgeError) as denied:
                await replica.exec("insert into note values (1)")
            assert denied.value.status == 403
            await client.tokens.revoke(minted.id)
            with pytest.raises(ForgeError) as ended:
                await replica.wait(Position(9, 9), timeout_s=LINE_S)
            assert ended.value.status == 401
            assert (await replica.read("select count(*) from note")).scalar == 0


async def test_mistakes_are_explained_in_four_lines_with_the_right_exit_code(start_node: StartNode) -> None:
    node = await start_node()
    assert (await node.cli("db", "create", "notes")).code == 0
    assert (await node.cli("db", "create", "notes")).code == 0  # it is the caller's already
    for code, arguments in (
        (2, ("db", "create", "no spaces")),
        (2, ("db", "sql", "notes", "selec 1")),
        (2, ("db", "sql", "notes", "select ?")),
        (2, ("db", "sql", "notes")),
        (3, ("db", "show", "nothing")),
        (3, ("db", "sql", "nothing", "select 1")),
        (3, ("db", "changes", "nothing")),
        (3, ("db", "watch", "nothing", "select 1")),
        (3, ("replica", "nothing", "./nothing.db", "--once")),
        (5, ("replica", "notes", str(document_path(node.data / "docs", "notes")), "--once")),
        (2, ("token", "create", "x", "--scope", "fly.high:notes")),
        (4, ("db", "sql", "notes", "select 1", "--token", "forge_wrong")),
        (2, ("db", "sql", "notes", "select 1", "--at", "yesterday")),
        (3, ("token", "revoke", "0" * 24)),
    ):
        done = await node.cli(*arguments)
        assert done.code == code, (arguments, done)
        assert [said.partition(":")[0] for said in done.err.splitlines()] == ["what", "why", "fix", "more"], arguments
    assert not (node.home / "nothing.db").exists()


async def test_the_examples_do_what_they_say(start_node: StartNode, tmp_path: Path) -> None:
    node = await start_node()

    async def example(name: str, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(ROOT / "examples" / name), *arguments),
            env=node.environ | {"FORGE_URL": node.url, "FORGE_TOKEN": node.token, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()

    assert "bread" in await example("shopping_list.py", "bread", "milk")
    assert len((await example("shopping_list.py", "milk", "tea")).splitlines()) == 3
    for _ in range(2):
        await example("changes_to_jsonl.py", "shopping", "list.jsonl", "--once")
    rows = [json.loads(row) for row in (tmp_path / "list.jsonl").read_text().splitlines()]
    assert [row["new"]["what"] for row in rows if row.get("op") == "insert"] == ["bread", "milk", "tea"]
    async with ForgeClient(node.url, node.token) as client:
        assert [document.db_id async for document in client.documents.all()] == ["shopping"]
