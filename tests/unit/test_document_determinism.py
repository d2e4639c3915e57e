"""Whatever SQL does to a document, its log repeats exactly."""

import random

import apsw
import pytest

from projectors.difference import first_difference
from projectors.digest import digest
from schemas.document import RunSql
from schemas.problems import Refusal
from tests.document_history import EVERYTHING, content, new_document, rebuilt
from tests.document_scripts import Script

HISTORIES = 2000
CHUNKS = 20
COMMANDS = 25


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_rebuild_of_a_random_history_equals_the_live_file(chunk: int) -> None:
    """PR2, PR4, K0.1: digests, and rowids beside them, of the live file, a fold in groups, and one up to some place."""
    seed = random.randrange(2**32)
    for number in range(HISTORIES // CHUNKS):
        one_history(f"{seed}.{chunk}.{number}")


def one_history(seed: str) -> None:
    """Run one history and compare its copies; a failure names the seed."""
    chosen = random.Random(seed)
    script = Script(chosen)
    asked: list[str] = []
    with new_document() as live:
        past: dict[int, str] = {}
        for _ in range(chosen.randint(1, COMMANDS)):
            script.look(live.db)
            commands = [RunSql(statements=script.batch(), classes=EVERYTHING) for _ in range(chosen.choice((1, 1, 3)))]
            asked += ["; ".join(s.sql for s in command.statements) for command in commands]
            for outcome in live.decide(*commands):
                if isinstance(outcome, Exception):
                    assert isinstance(outcome, Refusal), (seed, asked, outcome)
                    assert outcome.problem.status < 500, (seed, asked[-3:], outcome.problem)
            if chosen.random() < 0.2:
                past[len(live.entries)] = digest(live.db)
        with rebuilt(live, at_a_time=chosen.choice((1, 3, 256))) as copy:
            assert_same(seed, asked, live.db, copy)
        for records, known in past.items():
            with rebuilt(live, records) as copy:
                assert digest(copy) == known, (seed, records)


def assert_same(seed: str, asked: list[str], live: apsw.Connection, copy: apsw.Connection) -> None:
    """Say what was asked and what differs, if something does."""
    if content(live) != content(copy):
        told = "\n".join(asked)
        pytest.fail(f"seed {seed}\n{told}\n{first_difference(live, copy)}\n{content(live)}\n{content(copy)}")
