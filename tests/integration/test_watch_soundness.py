"""Many watches under many writers: each ends on the truth, and nothing it was told contradicts it."""

import asyncio
import os
import random
from contextlib import suppress
from pathlib import Path

import apsw
import pytest

from forge.stack.nats import NatsServer
from projectors.document.domain import document_partition, document_path
from schemas.ids import Position
from schemas.problems import Refusal
from tests.watching import WITHIN_S, Follower, Watching, new_watching

SCHEMA = (
    "CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT UNIQUE, age INTEGER)",
    "CREATE TABLE pet (name TEXT PRIMARY KEY, owner INTEGER REFERENCES person ON DELETE CASCADE, weight REAL)",
    "CREATE TABLE tag (label TEXT, kind TEXT, value, PRIMARY KEY (label, kind)) WITHOUT ROWID",
    "CREATE TABLE heap (a, b)",
    "CREATE VIRTUAL TABLE note USING fts5(title, body)",
    "CREATE VIEW grown AS SELECT * FROM person WHERE age >= 18",
    "CREATE TRIGGER tagged AFTER INSERT ON person "
    "BEGIN INSERT OR REPLACE INTO tag VALUES (new.name, 'new', new.age); END",
)


Query = tuple[str, list[object]]
ROUNDS = 3


def random_query(rng: random.Random) -> Query:
    """Return a query whose rows have one order."""
    number = rng.randint(1, 30)
    queries: list[Query] = [
        ("SELECT count(*), sum(age), max(name) FROM person WHERE age > ?", [number]),
        ("SELECT id, name, age FROM person WHERE id % 7 = ? ORDER BY id", [number % 7]),
        ("SELECT p.name, q.name FROM person p JOIN pet q ON q.owner = p.id WHERE q.weight < ? ORDER BY 1", [0.3]),
        ("SELECT kind, count(*) FROM tag GROUP BY kind HAVING count(*) > ? ORDER BY kind", [number]),
        ("SELECT count(*), total(a) FROM heap WHERE b IS NOT ?", [number]),
        ("SELECT rowid, title FROM note WHERE note MATCH ? ORDER BY rowid", [f"word{number % 5}"]),
        ("SELECT name FROM grown WHERE id IN (SELECT owner FROM pet) AND id > ? ORDER BY id", [number]),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "SELECT i, (SELECT count(*) FROM heap WHERE a = i) FROM n",
            [number],
        ),
        ("SELECT EXISTS (SELECT 1 FROM pet WHERE name = ?), (SELECT count(*) FROM tag)", [f"pet{number}"]),
        ("SELECT ?, 'nothing is read'", [number]),
    ]
    return rng.choice(queries)


def random_change(rng: random.Random) -> Query:
    """Return a statement that changes rows, or breaks a constraint."""
    number = rng.randint(1, 40)
    changes: list[Query] = [
        ("INSERT INTO person (name, age) VALUES (?, ?)", [f"name{number}", rng.randint(0, 60)]),
        ("UPDATE person SET age = age + 1 WHERE id = ?", [number]),
        ("DELETE FROM person WHERE id = ?", [number]),
        ("INSERT OR REPLACE INTO pet VALUES (?, (SELECT max(id) FROM person), ?)", [f"pet{number}", rng.random()]),
        ("DELETE FROM pet WHERE name = ?", [f"pet{number}"]),
        ("UPDATE tag SET value = value WHERE label = ?", [f"name{number}"]),
        ("DELETE FROM tag WHERE label = ?", [f"name{number}"]),
        ("INSERT INTO heap VALUES (?, ?)", [number, rng.choice([None, 1.5, "text"])]),
        ("DELETE FROM heap WHERE a = ?", [number]),
        ("INSERT INTO note VALUES (?, ?)", [f"word{number % 5}", f"body of {number}"]),
        ("UPDATE note SET title = 'other' WHERE rowid = ?", [number]),
    ]
    return rng.choice(changes)


def random_schema_change(rng: random.Random) -> str:
    """Return a statement that changes the schema and breaks no query."""
    return rng.choice(
        [
            f"ALTER TABLE heap ADD COLUMN c{rng.randint(0, 1 << 60)} DEFAULT 1",
            f"CREATE INDEX i{rng.randint(0, 1 << 60)} ON person(age)",
            f"CREATE TABLE t{rng.randint(0, 1 << 60)} (a)",
        ]
    )


async def write(watching: Watching, rng: random.Random, times: int) -> Position:
    """Change the document at random; return the newest position."""
    position = Position(1, 0)
    for _ in range(times):
        with suppress(Refusal):  # of a constraint
            if rng.random() < 0.02:
                position = await watching.sql(random_schema_change(rng))
            else:
                sql, args = random_change(rng)
                position = await watching.sql(sql, args=args)
        if rng.random() < 0.1:
            await asyncio.sleep(rng.random() / 50)
    return position


async def follow(follower: Follower, rng: random.Random, done: asyncio.Event) -> None:
    """Follow, at times slowly; the follower checks each event."""
    while not done.is_set():
        await follower.next(0.05)
        if rng.random() < 0.1:
            await asyncio.sleep(rng.random() / 10)


async def come_back(watching: Watching, follower: Follower) -> Follower:
    """Close the stream and open another one with the newest id."""
    follower.subscription.close()
    return watching.follow(*query_of(follower), last_seen=follower.seen[-1].position)


async def one_round(
    watching: Watching, followers: list[Follower], rng: random.Random, writers: int, times: int
) -> None:
    """Let writers and followers run, then compare what each was told last with the truth."""
    done = asyncio.Event()
    following = [asyncio.create_task(follow(f, random.Random(rng.random()), done)) for f in followers]
    writing = [write(watching, random.Random(rng.random()), times) for _ in range(writers)]
    last = max(await asyncio.gather(*writing))
    done.set()
    await asyncio.gather(*following)
    assert watching.partitions[document_partition(watching.db_id)].position == last

    db = apsw.Connection(str(document_path(watching.docs, watching.db_id)), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        for follower in followers:
            sql, args = query_of(follower)
            await follower.until_rows([list(row) for row in db.execute(sql, args)])
            async with asyncio.timeout(WITHIN_S):
                while follower.seen[-1].position != last:
                    await follower.next(0.01)
    finally:
        db.close()


def query_of(follower: Follower) -> Query:
    """Return what is followed."""
    statement = follower.subscription.watch.statement
    assert isinstance(statement.args, list)
    return statement.sql, statement.args


@pytest.mark.parametrize(
    ("writers", "watches", "times"),
    [(8, 60, 10), pytest.param(20, 200, 50, marks=pytest.mark.long)],
)
async def test_every_watch_ends_on_the_true_result(
    nats_server: NatsServer, tmp_path: Path, writers: int, watches: int, times: int
) -> None:
    """P2.X: strictly increasing positions, no two equal results in a row, no state missed that lasts.

    Between the rounds a state lasts until everybody has seen it.
    """
    seed = int(os.environ.get("FORGE_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed={seed}")
    rng = random.Random(seed)
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(*SCHEMA)
        followers = [watching.follow(*random_query(rng)) for _ in range(watches)]
        for _ in range(ROUNDS):
            await one_round(watching, followers, rng, writers, times)
        for follower in followers:
            last = follower.seen[-1].position
            resumed = await come_back(watching, follower)
            assert await resumed.next() == ("heartbeat", last, {"position": str(last)})
        print(f"{len(watching.evaluator.evaluated)} evaluations in {len(watching.evaluator.turns)} turns, at {last}")
