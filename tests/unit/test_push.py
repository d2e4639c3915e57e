"""Pushed changes: they fit and are taken, or nothing happens; whoever pushed can come to what is here."""

import random
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from projectors.difference import first_difference
from projectors.digest import digest
from projectors.document.replay import apply_steps, as_recorded
from projectors.document.sync.push import decide_push
from projectors.document.sync.rebase import rebased
from schemas.document import ChangesetStep, ChangesPushed, Policy, PushChanges, RowsStep
from schemas.problems import Refusal
from schemas.sync import CONFLICTS_TOLD_MAX, ConflictsProblem
from tests.documents import new_document, scribble
from tests.pushing import KEY_VALUE, attempt, changes, copied, push, recording

POLICIES: tuple[Policy, ...] = ("fail", "server", "client")
Rows = dict[int, int]


def _answer(db: apsw.Connection, changeset: bytes, policy: Policy = "fail") -> dict[str, int]:
    with db:
        answer: dict[str, int] = decide_push(db, PushChanges(base="1.0", changeset=changeset, policy=policy)).answer
    return answer


def _changesets(fact: ChangesPushed) -> list[bytes]:
    return [step.data for step in fact.steps if isinstance(step, ChangesetStep)]


def _edit(db: apsw.Connection, rng: random.Random) -> None:
    for _ in range(rng.randint(0, 6)):
        key, value = rng.randint(1, 8), rng.randint(1, 3)
        match rng.randint(0, 2):
            case 0:
                db.execute("INSERT OR IGNORE INTO kv VALUES (?, ?)", (key, value))
            case 1:
                db.execute("UPDATE kv SET v = ? WHERE k = ?", (value, key))
            case _:
                db.execute("DELETE FROM kv WHERE k = ?", (key,))


def _rows(db: apsw.Connection) -> Rows:
    return {int(str(k)): int(str(v)) for k, v in db.execute("SELECT k, v FROM kv").fetchall()}


def _merged(base: Rows, client: Rows, server: Rows, policy: Policy) -> Rows | None:
    """Return what the document should hold, by a model without SQLite; None: refused."""
    result = dict(server)
    for key in base.keys() | client.keys():
        before, wanted, here = base.get(key), client.get(key), server.get(key)
        if wanted in (before, here):
            continue
        if here != before:
            if policy == "fail":
                return None
            if policy == "server" or (here is None and before is not None):
                continue
        result.pop(key, None)
        if wanted is not None:
            result[key] = wanted
    return result


@pytest.mark.parametrize("policy", POLICIES)
def test_what_fits_is_taken_and_the_rest_is_decided_by_the_policy(policy: Policy) -> None:
    """Deliverable 7 of documents: against a model, for 600 random pairs of edits."""
    for seed in range(600):
        rng = random.Random(f"{policy} {seed}")
        with closing(new_document(schema=KEY_VALUE)) as server:
            _edit(server, rng)
            base = _rows(server)
            with closing(copied(server)) as client, closing(recording(client)) as session:
                _edit(client, rng)
                own, wanted = session.changeset(), _rows(client)
            _edit(server, rng)
            expected, before = _merged(base, wanted, _rows(server), policy), _rows(server)
            refused = isinstance(attempt(server, own, policy), Refusal)
            assert refused == (expected is None), seed
            assert _rows(server) == (before if refused else expected), seed


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(15))
def test_a_copy_comes_to_what_is_here_and_so_does_every_replica(policy: Policy, seed: int) -> None:
    """PR2: over a schema with everything in it; refused means unchanged, taken means sound."""
    rng = random.Random(f"{policy} {seed}")
    print("seed", policy, seed)
    with closing(new_document()) as server:
        scribble(server, rng, 60)
        with closing(copied(server)) as client, closing(recording(client)) as session:
            scribble(client, rng, rng.choice([1, 3, 10, 30]))
            own = session.changeset()
            with closing(recording(server)) as meanwhile:
                scribble(server, rng, rng.choice([0, 3, 10]))
                happened = meanwhile.changeset()
            before = digest(server)
            with closing(copied(server)) as replica:
                fact = attempt(server, own, policy)
                if isinstance(fact, Refusal):
                    assert isinstance(fact.problem, ConflictsProblem)
                    assert fact.problem.conflicts
                    assert digest(server) == before
                    return
                with replica, as_recorded(replica):
                    apply_steps(replica, fact.steps)
                assert first_difference(server, replica) is None
            if any(isinstance(step, RowsStep) for step in fact.steps):
                return  # too many changes of a table without a key to be told as changes
            whole = rebased(own, [happened, *_changesets(fact)])
            with client, as_recorded(client):
                apply_steps(client, [ChangesetStep(data=whole)])
            difference = first_difference(server, client)
            assert difference is None or "sqlite_sequence" in str(difference)
        assert server.execute("PRAGMA integrity_check").get == "ok"
        assert server.execute("PRAGMA foreign_key_check").fetchall() == []
        server.execute("INSERT INTO note(note) VALUES ('integrity-check')")


def test_a_refusal_lists_the_rows_that_do_not_fit() -> None:
    """Table, kind, key, the client's values and those that are here; at most a bound of them, and the full count."""
    with closing(new_document(schema=KEY_VALUE)) as server:
        server.execute("INSERT INTO kv VALUES (1, 'a'), (2, 'b')")
        with closing(copied(server)) as client:
            own = changes(
                client, "UPDATE kv SET v = 'mine' WHERE k = 1", "UPDATE kv SET v = 'x' WHERE k = 2", f"{_many()}"
            )
        server.execute("UPDATE kv SET v = 'theirs' WHERE k = 1")
        server.execute("DELETE FROM kv WHERE k = 2")
        server.execute(_many("0"))
        with pytest.raises(Refusal) as raised:
            push(server, own)
        problem = raised.value.problem
    assert isinstance(problem, ConflictsProblem)
    assert problem.status == 409
    assert (problem.conflict_count, len(problem.conflicts)) == (502, CONFLICTS_TOLD_MAX)
    told = [conflict for conflict in problem.body()["conflicts"] if conflict["key"] == {"k": 1}]
    assert told == [
        {
            "table": "kv",
            "kind": "changed",
            "operation": "update",
            "key": {"k": 1},
            "yours": {"v": "mine"},
            "theirs": {"k": 1, "v": "theirs"},
        }
    ]


def _many(value: str = "1") -> str:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 599)"
    return f"INSERT INTO kv {numbers} SELECT i, {value} FROM n"


@pytest.mark.parametrize("policy", POLICIES)
def test_references_are_never_broken(policy: Policy) -> None:
    """A row whose parent was removed meanwhile is refused under every policy."""
    with closing(new_document()) as server:
        server.execute("INSERT INTO person (id, name, age) VALUES (1, 'ann', 30)")
        with closing(copied(server)) as client:
            own = changes(client, "INSERT INTO pet VALUES ('rex', 1, 2.0)")
        server.execute("DELETE FROM person")
        with pytest.raises(Refusal) as raised:
            push(server, own, policy)
        assert isinstance(raised.value.problem, ConflictsProblem)
        assert [(c.table, c.kind, c.parent) for c in raised.value.problem.conflicts] == [("pet", "reference", "person")]
        assert server.execute("SELECT count(*) FROM pet").get == 0


def test_what_triggers_and_cascades_did_in_the_copy_is_not_done_twice() -> None:
    """The changeset has their effects; none of them runs here."""
    with closing(new_document()) as server:
        server.execute("INSERT INTO person (id, name, age) VALUES (1, 'ann', 30)")
        server.execute("INSERT INTO pet VALUES ('rex', 1, 2.0)")
        with closing(copied(server)) as client:
            own = changes(client, "DELETE FROM person", "INSERT INTO person (id, name, age) VALUES (2, 'bob', 3)")
            wanted = client.execute("SELECT * FROM tag ORDER BY label").fetchall()
        assert _answer(server, own)["omitted"] == 0
        assert server.execute("SELECT count(*) FROM pet").get == 0
        assert server.execute("SELECT * FROM tag ORDER BY label").fetchall() == wanted
        server.execute("INSERT INTO person (name, age) VALUES ('cid', 3)")
        assert server.execute("SELECT value FROM tag WHERE label = 'cid'").get is not None, "triggers work again"


def test_pushing_again_changes_nothing() -> None:
    """PR5: what is here already is no conflict."""
    with closing(new_document(schema=KEY_VALUE)) as server:
        with closing(copied(server)) as client:
            own = changes(client, "INSERT INTO kv VALUES (1, 1), (2, 2)", "DELETE FROM kv WHERE k = 2")
        push(server, own)
        assert push(server, own).steps == ()
        assert _answer(server, b"") == {"applied": 0, "omitted": 0, "replaced": 0}


def test_a_full_text_table_is_indexed_anew(tmp_path: Path) -> None:
    """Both sides wrote rows of one index: the rows meet, and all are found."""
    with closing(new_document(tmp_path / "server.db")) as server:
        server.execute("INSERT INTO note VALUES ('one', 'alpha')")
        with closing(copied(server)) as client:
            own = changes(
                client,
                "INSERT INTO note (rowid, title, body) VALUES (9, 'nine', 'alpha')",
                "INSERT INTO heap VALUES ('alpha', 1)",
            )
        server.execute("INSERT INTO note (rowid, title, body) VALUES (5, 'five', 'alpha')")
        push(server, own)
        assert server.execute("SELECT rowid FROM note('alpha') ORDER BY rowid").fetchall() == [(1,), (5,), (9,)]
        assert server.execute("SELECT count(*) FROM heap_text('alpha')").get == 1
        server.execute("INSERT INTO note VALUES ('more', 'alpha')")
        server.execute("INSERT INTO note(note) VALUES ('integrity-check')")
