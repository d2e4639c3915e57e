"""Replicas of documents on a real log: killed at any moment while others write, they end with the same content."""

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path

import pytest

from forge.client.retry import Retry
from forge.client.transport import Transport
from forge.replica.follower import Follower
from forge.replica.verify import verify
from forge.stack.nats import NatsServer
from projectors.document.domain import document_partition, document_path
from schemas.ids import Position
from schemas.problems import Refusal
from tests.document_source import digest_of
from tests.history_node import TOKEN, HistoryNode, history_node, new_db_id
from tests.notes import eventually

FORGE = Path(sys.executable).with_name("forge")
SCHEMA = (
    "CREATE TABLE note (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT, n INTEGER DEFAULT 0, twice AS (n * 2) STORED)",
    "CREATE TABLE tag (name TEXT PRIMARY KEY, uses INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE heap (a, b)",
    "CREATE VIRTUAL TABLE search USING fts5 (body)",
    "CREATE TRIGGER indexed AFTER INSERT ON note BEGIN INSERT INTO search (rowid, body) VALUES (new.id, new.body); END",
    "CREATE TRIGGER lucky AFTER UPDATE ON note BEGIN INSERT INTO heap VALUES (random(), datetime('now')); END",
)
WRITES = (
    "INSERT INTO note (body) VALUES (hex(randomblob(20)) || ' words and words')",
    "UPDATE note SET n = n + 1 WHERE id % 7 = abs(random()) % 7",
    "DELETE FROM note WHERE id = (SELECT max(id) FROM note)",
    "INSERT INTO tag VALUES ('t' || abs(random()) % 20, 1) ON CONFLICT DO UPDATE SET uses = uses + 1",
    "INSERT INTO heap SELECT random(), zeroblob(100) FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3)",
    "DELETE FROM heap WHERE rowid % 3 = 0",
    "INSERT INTO search (search) VALUES ('optimize')",
    "ALTER TABLE heap ADD COLUMN c{n} DEFAULT {n}",
    "CREATE TABLE more{n} AS SELECT * FROM note WHERE id % 2",
    "CREATE INDEX by{n} ON note (n) WHERE n > {n}",
)


@asynccontextmanager
async def follower_of(node: HistoryNode, db_id: str, file: Path) -> AsyncIterator[tuple[Follower, Transport]]:
    """Open a follower of a node's document, and close it."""
    transport = Transport(str(node.client.base_url), TOKEN, timeout_s=30.0, retry=Retry())
    follower = Follower(transport, db_id, file)
    try:
        yield await follower.open(), transport
    finally:
        await follower.close()
        await transport.http.aclose()


@asynccontextmanager
async def writing(node: HistoryNode, db_id: str, seed: int, commits: int) -> AsyncIterator["asyncio.Task[None]"]:
    """Write beside what happens inside, and stop at its end, however it ends."""
    task = asyncio.create_task(write(node, db_id, random.Random(seed), commits))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def write(node: HistoryNode, db_id: str, number: random.Random, commits: int) -> None:
    """Change the document in all ways; what a constraint refuses is no commit."""
    for n in range(commits):
        chosen = [number.choice(WRITES).format(n=n) for _ in range(number.choice((1, 1, 2, 5)))]
        with suppress(Refusal):
            await node.sql(db_id, *chosen)


async def command(node: HistoryNode, db_id: str, file: Path, *options: str) -> asyncio.subprocess.Process:
    """Start `forge replica` in a process of its own."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(file.parent), "FORGE_DATA_DIR": str(file.parent / "none")}
    environ |= {"FORGE_URL": str(node.client.base_url), "FORGE_TOKEN": TOKEN}
    return await asyncio.create_subprocess_exec(
        *(str(FORGE), "replica", db_id, str(file), "--json", *options),
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def killed_again_and_again(node: HistoryNode, db_id: str, file: Path, number: random.Random, rounds: int) -> None:
    """Start the follower and kill it at a random moment of its work, `rounds` times."""
    for _ in range(rounds):
        process = await command(node, db_id, file)
        assert process.stdout is not None
        if not await process.stdout.readline():  # its first state: it has begun
            raise AssertionError((await process.communicate())[1].decode())
        with suppress(TimeoutError):
            async with asyncio.timeout(number.choice((0.0, 0.02, 0.1, 0.8)) * number.random()):
                await process.wait()
        assert process.returncode is None, (await process.communicate())[1].decode()
        os.kill(process.pid, signal.SIGKILL)
        await process.communicate()


def beside(file: Path) -> set[str]:
    """Return the names of a file and of everything that belongs to it."""
    return {path.name for path in file.parent.glob(f"{file.name}*")}


@pytest.mark.parametrize("rounds", [6, pytest.param(60, marks=pytest.mark.long)])
async def test_a_follower_that_is_killed_at_any_moment_ends_with_the_same_content(
    nats_server: NatsServer, tmp_path: Path, rounds: int
) -> None:
    """PR2, K2.4, K3.3: position and rows move together, also through bootstrap, DDL and FTS5."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    number = random.Random(seed)
    file, db_id = tmp_path / "copy.db", new_db_id()
    async with history_node(nats_server, tmp_path / "node") as node:
        await node.sql(db_id, *SCHEMA)
        async with writing(node, db_id, seed, 200 * rounds):
            await killed_again_and_again(node, db_id, file, number, rounds)
        process = await command(node, db_id, file, "--once")
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        position = Position.parse(json.loads(out)["position"])
        assert position == node.partitions[document_partition(db_id)].position
        assert digest_of(file) == digest_of(document_path(node.docs_dir, db_id))
        with closing(sqlite3.connect(file)) as reader:
            assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert beside(file) <= {"copy.db", "copy.db-wal", "copy.db-shm"}


async def test_a_replica_of_a_real_node_is_the_same_at_every_position(nats_server: NatsServer, tmp_path: Path) -> None:
    """K3.3, K3.5: bootstraps under a writer never wait for it, and what they follow is exactly what was written."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    db_id = new_db_id()
    async with history_node(nats_server, tmp_path / "node") as node:
        await node.sql(db_id, *SCHEMA)
        compared = []
        async with writing(node, db_id, seed, 300) as written:
            for n in range(5):
                async with follower_of(node, db_id, tmp_path / f"copy-{n}.db") as (follower, transport):
                    verdict = await verify(follower, transport)
                    assert verdict.equal
                    compared.append(verdict.position)
            await written
        for n in range(5):
            async with follower_of(node, db_id, tmp_path / f"copy-{n}.db") as (follower, transport):
                await follower.catch_up()
                assert (await verify(follower, transport)).equal
        assert compared == sorted(compared)


def stands_at(follower: Follower, position: Position) -> bool:
    return follower.status.position == position


async def test_a_write_is_seen_by_a_live_follower(nats_server: NatsServer, tmp_path: Path) -> None:
    """G4: a follower that is live hears of a commit without asking again and again."""
    db_id = new_db_id()
    async with history_node(nats_server, tmp_path / "node") as node:
        await node.sql(db_id, *SCHEMA)
        async with follower_of(node, db_id, tmp_path / "copy.db") as (follower, _):
            following = asyncio.create_task(follower.follow())
            for _ in range(20):
                position = await node.sql(db_id, WRITES[0])
                await eventually(partial(stands_at, follower, position))
            following.cancel()
            await asyncio.wait({following})
            assert await follower.digest() == digest_of(document_path(node.docs_dir, db_id))
