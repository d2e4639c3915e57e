"""Made-up SQL on both kinds of connection: whatever it is, a document only changes by what its class allows."""

import os
import random
import time
from collections import Counter
from pathlib import Path

import apsw
import pytest

from projectors.document.sql.bounds import SqlBounds
from schemas.document import SqlClass
from schemas.problems import Problem
from tests.unit.sandboxed import ALL, Sandboxed
from tests.unit.sql_grammar import Grammar

STATEMENTS = 20_000
STATEMENTS_LONG = int(os.environ.get("FORGE_TEST_SQL_STATEMENTS", "1000000"))
PER_DOCUMENT = 500
BOUNDS = SqlBounds(seconds=0.1, temp_bytes=64 << 20)
CLASSES: tuple[tuple[SqlClass, ...], ...] = (("read",), ("read", "write"), ALL, ALL)


def fuzz(directory: Path, seed: int, statements: int, most_seconds: float) -> Counter[str]:
    """Run made-up statements for as long as there is time; return how many ended in which way."""
    ends: Counter[str] = Counter()
    started = time.monotonic()
    for number in range(statements // PER_DOCUMENT):
        if time.monotonic() - started > most_seconds:
            break
        path = directory / str(number)
        path.mkdir()
        print(f"seed {seed + number}")
        fuzz_document(path, seed + number, ends)
    return ends


def fuzz_document(directory: Path, seed: int, ends: Counter[str]) -> None:
    """Run statements on one document, and look it over."""
    grammar, classes = Grammar(seed), random.Random(seed)
    document = Sandboxed(directory, BOUNDS)
    try:
        for _ in range(PER_DOCUMENT // 2):
            sql = grammar.statement()
            before = document.writer.total_changes(), document.writer.data_version("main")
            note(ends, document.read(sql))
            assert (document.writer.total_changes(), document.writer.data_version("main")) == before
            note(ends, document.write(sql, classes.choice(CLASSES)))
        document.check()
        assert document.writer.execute("PRAGMA integrity_check").get == "ok"
        content = document.content()
        for _ in range(20):
            document.read(grammar.statement())
        assert document.content() == content
    finally:
        document.close()


def note(ends: Counter[str], outcome: object) -> None:
    """Count it; something else than a result or a problem of the sender has raised already."""
    ends[str(outcome.status) if isinstance(outcome, Problem) else "done"] += 1


def check(ends: Counter[str]) -> None:
    """Assert that the statements were of all kinds, so that the run means something."""
    print(dict(ends))
    assert min(ends["done"], ends["400"], ends["403"]) > sum(ends.values()) / 50
    assert apsw.memory_used() < BOUNDS.heap_bytes


def test_no_made_up_statement_gets_out_of_its_document(tmp_path: Path) -> None:
    """PR6, PR7, P2.3 to P2.6: no crash, no file, no change by a read, nothing of Forge's own seen or touched."""
    check(fuzz(tmp_path, 1, STATEMENTS, most_seconds=40))


@pytest.mark.long
def test_no_made_up_statement_gets_out_in_a_long_run(tmp_path: Path) -> None:
    """PR6, PR7: a seed that is new each time, as many statements as FORGE_TEST_SQL_STATEMENTS says."""
    check(fuzz(tmp_path, random.SystemRandom().randrange(1 << 40), STATEMENTS_LONG, most_seconds=4000))
