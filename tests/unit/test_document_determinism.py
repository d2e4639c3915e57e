"""Whatever SQL does to a document, every copy that is made of its log holds the same."""

import multiprocessing
import os
import random
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import apsw
import pytest

from projectors.difference import first_difference
from projectors.document.system import Migration
from projectors.document.system_tables import MIGRATIONS
from schemas.document import RunSql
from schemas.facts import Command
from schemas.problems import Refusal
from tests.document_copies import cloned, forgetful, replicated, user_content
from tests.document_history import EVERYTHING, Document, content, new_document, rebuilt
from tests.document_scripts import Script
from tests.typed_commands import random_command

HISTORIES, HISTORIES_LONG = 2000, 100_000
CHUNK = 50
COMMANDS = 25
SYSTEM = (  # those of today, and what a later Forge may do to them
    *MIGRATIONS,
    Migration(
        (
            "ALTER TABLE messages ADD COLUMN later DEFAULT 'then'",
            "CREATE INDEX messages_at ON messages (created_at)",
            "INSERT OR IGNORE INTO retained_messages (topic, id, payload, content_type, created_at) "
            "VALUES ('c', 1, 'a', 'b', ''), ('b', 2, 'b', 'c', '')",
            "UPDATE OR IGNORE webhook_inbox SET query_string = query_string || 'x'",
        )
    ),
)


@pytest.mark.timeout(600)
def test_every_copy_of_a_random_history_equals_the_live_file() -> None:
    """PR2, PR4, K0.1: digests and rowids of the live file, rebuilds, a replica, and a clone of a past moment.

    `HISTORIES=n` in the environment runs so many of them.
    """
    run_histories(int(os.environ.get("HISTORIES", HISTORIES)))


@pytest.mark.long
@pytest.mark.timeout(24 * 3600)
def test_every_copy_of_a_hundred_thousand_random_histories_equals_the_live_file() -> None:
    """PR2, PR4, K0.1: the same, often enough to meet rarer SQL."""
    run_histories(HISTORIES_LONG)


def run_histories(count: int) -> None:
    """Run histories on all processors."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        done = sum(pool.map(partial(some_histories, seed, count), range(0, count, CHUNK)))
    assert done == count


def some_histories(seed: int, count: int, first: int) -> int:
    """Run the histories of one chunk; return how many there were."""
    numbers = range(first, min(first + CHUNK, count))
    for number in numbers:
        one_history(f"{seed}.{number}")
    return len(numbers)


def one_history(seed: str) -> None:
    """Run one history and compare its copies; a failure names the seed and what was asked."""
    asked: list[str] = []
    try:
        _one_history(random.Random(seed), asked)
    except Exception as error:
        told = "\n".join(asked)
        raise AssertionError(f"history {seed}: {error}\n{told}") from error


def _one_history(chosen: random.Random, asked: list[str]) -> None:
    with new_document(SYSTEM[: chosen.choice((1, 1, 2))]) as live:
        past = write(live, chosen, asked)
        with rebuilt(live, at_a_time=chosen.choice((1, 3, 256))) as copy:
            assert_same(content(live.db), content(copy), live.db, copy)
        with replicated(live, chosen) as copy:
            assert_same(content(live.db), content(copy), live.db, copy)
        for records, known in past.items():
            with rebuilt(live, records, at_a_time=chosen.choice((1, 3, 256))) as then:
                assert user_content(then) == known
                with cloned(live, records, chosen) as clone, forgetful(then, clone.db):
                    assert_same(known, content(clone.db), then, clone.db)


def write(live: Document, chosen: random.Random, asked: list[str]) -> dict[int, object]:
    """Write a history; return what the document was after some numbers of records."""
    script = Script(chosen)
    past: dict[int, object] = {}
    commands_count = chosen.randint(1, COMMANDS)
    for _ in range(commands_count):
        script.look(live.db)
        commands = [_command(script, chosen) for _ in range(chosen.choice((1, 1, 3)))]
        asked += [_told(command) for command in commands]
        for outcome in live.decide(*commands):
            if isinstance(outcome, Exception):
                assert isinstance(outcome, Refusal), outcome
                assert outcome.problem.status < 500, outcome.problem
        if chosen.random() < 1 / commands_count:
            past[len(live.entries)] = user_content(live.db)
        if chosen.random() < 0.04:
            live.upgrade(*SYSTEM[len(live.migrations) :][:1])
            asked.append(f"-- {len(live.migrations)} migrations")
    return past


def _command(script: Script, chosen: random.Random) -> Command:
    if chosen.random() < 0.25:
        return random_command(chosen)
    return RunSql(statements=script.batch(), classes=EVERYTHING)


def _told(command: Command) -> str:
    return "; ".join(s.sql for s in command.statements) if isinstance(command, RunSql) else repr(command)


def assert_same(known: object, found: object, live: apsw.Connection, copy: apsw.Connection) -> None:
    """Say what differs, if something does."""
    assert found == known, f"{first_difference(live, copy)}\n{known}\n{found}"


def test_a_column_cannot_be_generated_from_itself() -> None:
    """PR4: its table's rows could be deleted, and no copy could repeat that."""
    with new_document() as live:
        live.sql("CREATE TABLE t (a, b AS (a + 1))")
        with pytest.raises(Refusal, match=r"table t could not be read.*generated column loop"):
            live.sql("ALTER TABLE t ADD COLUMN c AS (c || '?')")
        live.sql("ALTER TABLE t ADD COLUMN c AS (b || '?')")
        live.sql("INSERT INTO t (a) VALUES (1)")
        with rebuilt(live) as copy:
            assert copy.execute("SELECT * FROM t").fetchall() == [(1, 2, "2?")]


def test_a_key_cannot_change_between_kinds_of_numbers() -> None:
    """PR4: 1 and 1.0 are one key, and SQLite's changesets tell such a change in a way that cannot be repeated."""
    with new_document() as live:
        live.sql("CREATE TABLE t (k PRIMARY KEY, a) WITHOUT ROWID")
        live.sql("INSERT INTO t VALUES (1.0, 'x'), (2, 'y')")
        with pytest.raises(Refusal, match=r"a row of t changes the type of its key: 1\.0 to 1"):
            live.sql("REPLACE INTO t VALUES (1, 'z')")
        live.sql("UPDATE t SET k = 3 WHERE k = 2")
        live.sql("DELETE FROM t WHERE k = 1")
        live.sql("INSERT INTO t VALUES (1, 'z')")
        with rebuilt(live) as copy:
            assert copy.execute("SELECT * FROM t").fetchall() == [(1, "z"), (3, "y")]
