"""Which watches a commit concerns."""

import random

import pytest

from projectors.document.watches.touches import TABLES_MAX, Touches, tables_touched
from projectors.document.watches.watch import Shown, Subscription, Watch, watch_key
from projectors.document.watches.watched import TOGETHER_MAX, WatchedDocument
from schemas.document import ChangesetStep, DdlStep, DocumentFact, SqlExecuted, Statement, StateStep
from schemas.ids import Position
from schemas.vector import JobsClaimed
from tests.notes import TIME


def at(index: int, epoch: int = 1) -> Position:
    """Return a position."""
    return Position(epoch, index)


def document() -> WatchedDocument:
    """Return a document that nobody watches yet."""
    return WatchedDocument("notes", lambda event, data, position: data, lambda _: None, lambda _, __: None)


def watching(watched: WatchedDocument, sql: str, tables: frozenset[str] | None, position: Position) -> Watch:
    """Return a new watch that was evaluated at `position` and read `tables`."""
    statement = Statement(sql=sql)
    watch = watched.add(watch_key(statement, None), statement)
    watched.due.clear()
    watched.evaluated(watch, position, tables)
    return watch


def names(*tables: str) -> frozenset[str]:
    """Return a set of tables."""
    return frozenset(tables)


def changed(*tables: str) -> DocumentFact:
    """Return the fact of a statement that changed rows of `tables`."""
    return SqlExecuted(steps=(ChangesetStep(data=b""),), tables={table: () for table in tables})


def test_a_commit_touches_the_tables_of_all_its_facts() -> None:
    """D.2: several commands share one record; names have no case in SQL."""
    assert tables_touched([changed("Note"), changed("tag", "NOTE")]) == names("note", "tag")


def test_a_changed_schema_a_foreign_fact_or_no_facts_touch_everything() -> None:
    """D.2: unknown falls back to every watch of the document."""
    renamed = SqlExecuted(steps=(DdlStep(sql="ALTER TABLE a RENAME TO b"),), tables={"a": ()})

    assert tables_touched([changed("a"), renamed]) is None
    assert tables_touched([]) is None
    assert tables_touched([changed("a"), JobsClaimed(job_ids=[1], worker_id="w", lease_until=TIME)]) is None


def test_counters_of_autoincrement_are_a_table_too() -> None:
    """D.2: they are no part of a changeset."""
    fact = SqlExecuted(steps=(StateStep(sequences={"a": (7,)}),), tables={"a": ()})

    assert tables_touched([fact]) == names("a", "sqlite_sequence")


def test_only_watches_that_read_a_touched_table_are_due() -> None:
    """D.2: an unrelated write causes no evaluation."""
    watched = document()
    notes = watching(watched, "SELECT * FROM note", names("note"), at(1))
    both = watching(watched, "SELECT * FROM note JOIN tag", names("note", "tag"), at(1))
    constant = watching(watched, "SELECT 1", names(), at(1))
    unknown = watching(watched, "PRAGMA user_version", None, at(1))

    watched.heard(at(2), names("tag"))
    assert set(watched.due) == {both, unknown}

    watched.heard(at(3), names("note"))
    assert set(watched.due) == {both, unknown, notes}

    watched.heard(at(4), None)
    assert set(watched.due) == {both, unknown, notes, constant}
    assert (notes.covered, both.covered, constant.covered) == (at(2), at(1), at(3))


def test_a_watch_is_due_once_however_many_commits_concern_it() -> None:
    """P2.8: commits that come meanwhile are coalesced."""
    watched = document()
    watch = watching(watched, "SELECT * FROM note", names("note"), at(1))
    watched.heard(at(2), names("note"))
    watched.heard(at(3), names("note"))

    assert watched.take() == [watch]
    watched.heard(at(4), names("note"))
    watched.evaluated(watch, at(3), names("note"))

    assert watched.take() == [watch], "one commit came after the snapshot that it read"
    watched.evaluated(watch, at(4), names("note"))
    assert watched.take() == []


def test_news_that_an_evaluation_was_ahead_of_costs_nothing() -> None:
    """P2.10: a reader may see a commit before its news goes round."""
    watched = document()
    watch = watching(watched, "SELECT * FROM note", names("note"), at(1))
    watched.heard(at(2), names("note"))
    watched.take()
    watched.evaluated(watch, at(3), names("note"))

    watched.heard(at(3), names("note"))
    assert not watched.due

    watched.heard(at(4), names("note"))
    assert set(watched.due) == {watch}


def test_missed_news_concerns_everybody() -> None:
    """P2.7: no commit is missed, not even one that nobody told about."""
    watched = document()
    watch = watching(watched, "SELECT * FROM note", names("note"), at(1))

    watched.heard(at(3), names("tag"))

    assert set(watched.due) == {watch}


def test_a_new_epoch_concerns_everybody() -> None:
    """P2.7: history may have forked."""
    watched = document()
    watch = watching(watched, "SELECT * FROM note", names("note"), at(1))

    watched.heard(at(2, epoch=2), names("tag"))

    assert set(watched.due) == {watch}


def test_an_evaluation_from_before_the_first_known_commit_is_repeated() -> None:
    """P2.7: two first evaluations may see different snapshots."""
    watched = document()
    late = Statement(sql="SELECT 2")
    behind = watched.add(watch_key(late, None), late)
    watched.take()
    watching(watched, "SELECT 1", names("note"), at(6))

    watched.evaluated(behind, at(5), names("note"))

    assert set(watched.due) == {behind}


def test_a_removed_watch_leaves_nothing_behind() -> None:
    """PR7: watches that come and go take no memory."""
    watched = document()
    for sql, tables in (("SELECT 1", None), ("SELECT 2", names("a", "b")), ("SELECT 3", names("b"))):
        watching(watched, sql, tables, at(1))
    for watch in list(watched.watches.values()):
        watched.remove(watch)

    assert not watched.watches
    assert not watched._by_table
    assert not watched._any


def test_only_quick_watches_are_evaluated_together() -> None:
    """P2.8: one that takes long does not hold up others."""
    watched = document()
    watches = [watching(watched, f"SELECT {n}", names("a"), at(1)) for n in range(TOGETHER_MAX + 3)]
    slow = watches[5]
    for watch in watches:
        watch.quick = watch is not slow
    watched.due = dict.fromkeys(watches)

    assert watched.take() == watches[:5]
    assert watched.take() == [slow]
    assert watched.take() == watches[6:][:TOGETHER_MAX]


def test_touches_know_since_when_they_know() -> None:
    """P2.8: who comes back is told again unless it is certain that nothing changed."""
    touches = Touches(at(5))
    touches.note(at(6), names("a"))
    touches.note(at(7), names("b"))

    assert touches.changed(names("a"), at(4)), "nothing is known of then"
    assert touches.changed(names("a"), at(5))
    assert not touches.changed(names("a"), at(6))
    assert touches.changed(None, at(6))
    assert not touches.changed(None, at(7))
    assert touches.changed(names("b", "c"), at(6))


def test_touches_of_many_tables_are_forgotten_safely() -> None:
    """PR7: what is remembered is bounded, and forgetting means that everything may have changed."""
    touches = Touches(at(0))
    touches.note(at(1), names(*(f"t{n}" for n in range(TABLES_MAX))))

    assert touches.note(at(2), names("one more")) is None
    assert touches.changed(names("a"), at(1))
    assert not touches.changed(names("one more"), at(2))


@pytest.mark.parametrize("seed", range(20))
def test_no_touch_is_ever_missed(seed: int) -> None:
    """D.2: random commits, compared with looking at all of them."""
    print(f"seed={seed}")
    rng = random.Random(seed)
    tables = "abcd"
    touches = Touches(at(0))
    commits: list[frozenset[str] | None] = []
    for index in range(1, 60):
        touched = None if rng.random() < 0.05 else names(*rng.sample(tables, rng.randint(0, 2)))
        commits.append(touched)
        touches.note(at(index), touched)
        asked = names(*rng.sample(tables, 2))
        after = rng.randint(0, index)
        truly = any(commit is None or commit & asked for commit in commits[after:])
        said = touches.changed(asked, at(after))
        assert said or not truly
        if at(after) >= touches.since:
            assert said == truly


async def test_who_has_the_result_is_not_sent_it_again_when_it_is_about_to_change() -> None:
    """P2.8: the id says that the client has it, whatever was touched since."""
    told: list[tuple[str, str]] = []

    def encode(event: str, data: bytes, position: str) -> bytes:
        told.append((event, position))
        return data

    watched = WatchedDocument("notes", encode, lambda _: None, lambda _, __: None)
    watch = watching(watched, "SELECT * FROM note", names("note"), at(10))
    watch.shown = Shown(at(10), "hash", b"}")
    back = Subscription(watched, watch, at(10))
    watched.heard(at(11), names("note"))
    await back.next(60)
    watched.evaluated(watch, at(11), names("note"))
    watch.shown = Shown(at(11), "other", b"}")
    await back.next(60)

    assert told == [("heartbeat", "1.10"), ("update", "1.11")]
