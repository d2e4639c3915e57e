"""One round of the commit loop without a log: what is decided together, and what is undone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import apsw
import pytest

from events.record import RECORD_BYTES_MAX
from projectors import batch as batch_module
from projectors.batch import Batch
from projectors.command_queue import Pending
from projectors.digest import digest
from projectors.domain import Decision, Domain
from projectors.projection import Projection
from schemas.facts import Command
from schemas.ids import PartitionId, Position
from schemas.problems import Refusal
from tests.notes import TIME, AddNotes, NoteAdded, decide, notes_domain

PARTITION = PartitionId("doc", "notes")


class RemoveNotes(AddNotes):
    """Another command with the very same fields."""


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[Projection]]:
    projections = [Projection(spec, PARTITION) for spec in notes_domain(tmp_path).projections("notes")]
    yield projections
    for projection in projections:
        projection.close()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is slow, not wrong."""
    monkeypatch.setattr(batch_module, "BATCH_SECONDS_MAX", 60.0)


def begun(projections: list[Projection], clock: str = TIME, decide: Any = decide) -> Batch:
    domain: Domain = notes_domain(projections[0].path.parent, decide=decide)
    return Batch(domain, projections, PARTITION, "node-a", lambda: clock)


def add(*texts: str, command_id: str | None = None, **ending: bool) -> Pending:
    return Pending(AddNotes(texts=texts, **ending), "root", command_id, cast(Any, None))


def committed(batch: Batch, commands: list[Pending]) -> Batch:
    assert batch.decide(commands) == len(commands)
    batch.commit(batch.cursor(batch.before.sequence + 1))
    return batch


def notes(projections: list[Projection]) -> list[str]:
    return [str(row[0]) for row in projections[0].db.execute("SELECT text FROM note ORDER BY id")]


def test_commands_see_what_those_before_them_did(opened: list[Projection]) -> None:
    batch = committed(begun(opened), [add("one"), add(), add("two", "three")])

    assert batch.outcomes == [(None, {"notes": 1}), (None, {"notes": 1}), (None, {"notes": 3})]
    assert batch.record is not None
    assert [event["id"] for event in batch.record.envelopes()] == [f"{batch.record.id}/{n}" for n in range(3)]
    assert [cast(NoteAdded, fact).text for fact in batch.facts] == ["one", "two", "three"]
    assert notes(opened) == ["one", "two", "three"]


def test_both_projections_stand_at_the_position_of_the_record(opened: list[Projection]) -> None:
    """PR4: each has its position in the transaction of its rows."""
    batch = committed(begun(opened), [add("one")])
    second = committed(begun(opened), [add("two")])

    assert (batch.position, second.position) == (Position(1, 1), Position(1, 2))
    assert second.record is not None
    assert batch.record is not None
    assert second.record.previous == batch.record.hash
    assert {p.cursor for p in opened} == {second.cursor(2)}


@pytest.mark.parametrize("ending", ["refused", "broken"])
def test_what_fails_leaves_no_trace_in_rows_events_or_memory(opened: list[Projection], ending: str) -> None:
    """PR3: each caller gets its own outcome."""
    batch = committed(
        begun(opened), [add("one"), add("never", command_id="key", **{ending: True}), add("two", command_id="other")]
    )

    first, failed, last = batch.outcomes
    assert (first, last) == ((None, {"notes": 1}), (None, {"notes": 2}))
    assert isinstance(failed, Refusal)
    assert failed.problem.status == (409 if ending == "refused" else 500)
    assert notes(opened) == ["one", "two"]
    assert opened[0].remembered("key") is None
    assert opened[0].remembered("other") is not None
    assert batch.record is not None
    assert len(batch.record.envelopes()) == len(batch.facts) == 2


def test_only_failures_make_no_record(opened: list[Projection]) -> None:
    batch = begun(opened)
    batch.decide([add(refused=True), add(broken=True)])

    assert batch.record is None
    assert all(isinstance(outcome, Refusal) for outcome in batch.outcomes)
    batch.rollback()


def test_a_rollback_undoes_everything_and_may_be_repeated(opened: list[Projection]) -> None:
    """DESIGN 3.4: a refused append leaves nothing half done."""
    committed(begun(opened), [add("kept", command_id="kept")])
    before, cursors = [digest(p.db) for p in opened], [p.cursor for p in opened]
    batch = begun(opened)
    batch.decide([add("gone", command_id="key"), add("gone too")])

    batch.rollback()
    batch.rollback()

    assert [digest(p.db) for p in opened] == before
    assert [p.cursor for p in opened] == cursors
    committed(begun(opened), [add("next")])
    assert notes(opened) == ["kept", "next"]


def test_a_batch_ends_at_its_bound_of_bytes(opened: list[Projection], monkeypatch: pytest.MonkeyPatch) -> None:
    """PR7: but one command is always decided, however large."""
    assert batch_module.BATCH_BYTES_MAX == 2 << 20
    monkeypatch.setattr(batch_module, "BATCH_BYTES_MAX", 1000)
    batch = begun(opened)

    assert batch.decide([add("x" * 2000), add("y")]) == 1
    batch.rollback()


def test_a_command_whose_events_no_reader_would_take_is_refused(
    opened: list[Projection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PR4, PR7: 413 for it alone; what cannot be read is never written."""
    assert RECORD_BYTES_MAX > batch_module.COMMAND_BYTES_MAX + batch_module.BATCH_BYTES_MAX
    monkeypatch.setattr(batch_module, "COMMAND_BYTES_MAX", 1000)

    batch = committed(begun(opened), [add("one"), add("x" * 1000, command_id="key"), add("two")])

    refused = batch.outcomes[1]
    assert isinstance(refused, Refusal)
    assert refused.problem.status == 413
    assert notes(opened) == ["one", "two"]


def test_a_batch_ends_at_its_bound_of_time(opened: list[Projection], monkeypatch: pytest.MonkeyPatch) -> None:
    """PR7: the answers of quick commands do not wait for many slow ones."""
    monkeypatch.setattr(batch_module, "BATCH_SECONDS_MAX", -1.0)
    batch = begun(opened)

    assert batch.decide([add("one"), add("two")]) == 1
    batch.rollback()


def test_a_clock_that_goes_back_gives_no_earlier_time(opened: list[Projection]) -> None:
    """Times of one partition never go back."""
    times = []
    for clock in ("2026-05-01T00:00:00.000000Z", "2026-04-01T00:00:00.000000Z", "2026-06-01T00:00:00.000000Z"):
        batch = committed(begun(opened, clock), [add("x")])
        assert batch.record is not None
        times.append(batch.record.envelopes()[0]["time"][5:7])

    assert times == ["05", "05", "06"]


def test_the_same_fields_of_another_command_are_another_command(opened: list[Projection]) -> None:
    """PR5: an id that was used for adding does not answer for removing."""
    committed(begun(opened), [add("one", command_id="key")])
    batch = begun(opened)
    batch.decide([Pending(RemoveNotes(texts=("one",)), "root", "key", cast(Any, None))])
    batch.rollback()

    (outcome,) = batch.outcomes
    assert isinstance(outcome, Refusal)
    assert outcome.problem.status == 422


def test_a_command_that_writes_and_then_breaks_is_decided_again_alone(opened: list[Projection]) -> None:
    """The commands around it are decided twice and happen once."""
    seen: list[str] = []

    def counting(db: apsw.Connection, command: Command, now: str) -> Decision:
        seen.append("".join(cast(AddNotes, command).texts))
        return decide(db, command, now)

    batch = begun(opened, decide=counting)
    committed(batch, [add("a"), add("b", broken=True), add("c")])

    assert seen == ["a", "b", "a", "b", "c"]
    assert notes(opened) == ["a", "c"]
    assert opened[1].db.execute("SELECT count(*) FROM length").get == 2
