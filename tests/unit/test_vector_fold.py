"""The folds of the vector log: each fact's effect, and what must hold for every history."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.cursor import Entry
from events.envelope import Event
from projectors.catch_up import FoldFailed, fold_group
from projectors.projection import Projection
from projectors.vector.queries import job_counts
from schemas.facts import Fact
from schemas.vector import (
    FACTS,
    AcceptUpload,
    ClaimJobs,
    CompleteJob,
    EmbeddingStored,
    JobFailed,
    JobsClaimed,
    JobsParked,
    JobsReleased,
    JobsRequeued,
    UploadAccepted,
)
from tests.vector_history import (
    HASHES,
    Rounds,
    digests,
    entries,
    fresh_projections,
    jobs,
    projections_of,
    rounds,
    run,
)

NOON = "2026-03-01T12:00:00.000000Z"
LATER = "2026-03-01T12:00:30.000000Z"
UPLOAD = UploadAccepted(job_id=1, kind="image", file_hash=HASHES[0], payload=HASHES[0], size_bytes=3)
CLAIM = JobsClaimed(job_ids=(1,), worker_id="worker-a", lease_until=LATER)
FAIL = JobFailed(job_id=1, attempts=1, reason="no", next_attempt_at=LATER)
PARK = JobsParked(job_ids=(1,), reason="no bytes")
DIE = JobFailed(job_id=1, attempts=2, reason="no", next_attempt_at=None)
STORE = EmbeddingStored(
    job_id=1, kind="image", file_hash=HASHES[0], model="m", dimension=2, vector=b"\0\0\x80?\0\0\0\xc0"
)


def fold(projections: list[Projection], *facts: Fact) -> None:
    for number, fact in enumerate(facts):
        for projection in projections:
            projection.apply([Event(f"x/{number}", "/forge/node/a", NOON, "root", fact)])


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ([UPLOAD], {"status": "pending", "attempts": 0, "next_attempt_at": NOON}),
        ([UPLOAD, CLAIM], {"status": "processing", "worker_id": "worker-a", "lease_until": LATER}),
        (
            [UPLOAD, CLAIM, JobsReleased(job_ids=(1,), reason="away", next_attempt_at=LATER)],
            {"status": "pending", "attempts": 0, "last_error": "away", "next_attempt_at": LATER, "worker_id": None},
        ),
        ([UPLOAD, CLAIM, FAIL], {"status": "pending", "attempts": 1, "last_error": "no", "next_attempt_at": LATER}),
        ([UPLOAD, CLAIM, DIE], {"status": "error", "attempts": 2, "last_error": "no", "lease_until": None}),
        (
            [UPLOAD, CLAIM, DIE, JobsRequeued(job_ids=(1,))],
            {"status": "pending", "attempts": 0, "last_error": None, "next_attempt_at": NOON},
        ),
        (
            [UPLOAD, CLAIM, DIE, UPLOAD.model_copy(update={"payload": HASHES[1], "size_bytes": 9})],
            {"status": "pending", "attempts": 0, "last_error": None, "payload": HASHES[1], "size_bytes": 9},
        ),
        (
            [UPLOAD, CLAIM, FAIL, CLAIM, PARK],
            {"status": "awaiting_payload", "attempts": 1, "last_error": "no bytes", "worker_id": None},
        ),
        (
            [UPLOAD, CLAIM, PARK, UPLOAD.model_copy(update={"size_bytes": 9})],
            {"status": "pending", "attempts": 0, "last_error": None, "size_bytes": 9},
        ),
        ([UPLOAD, CLAIM, PARK, JobsRequeued(job_ids=(1,))], {"status": "pending", "attempts": 0, "last_error": None}),
        ([UPLOAD, CLAIM, PARK, STORE], {"status": "done", "last_error": None}),
        ([UPLOAD, CLAIM, FAIL, CLAIM, STORE], {"status": "done", "worker_id": None, "last_error": None, "attempts": 1}),
    ],
)
def test_each_fact_has_its_effect_on_the_job(facts: list[Fact], expected: dict[str, object]) -> None:
    """Spec 8, assertion 15 among them: an upload of a dead letter starts it afresh, with the new payload."""
    with fresh_projections() as (_, projections):
        fold(projections, *facts)

        job = jobs(projections[0].db)[1]
        assert {name: job[name] for name in expected} == expected


def test_a_stored_embedding_is_readable_as_bytes_and_as_json() -> None:
    """The older shape stays readable for clients that open the file."""
    with fresh_projections() as (_, projections):
        fold(projections, UPLOAD, CLAIM, STORE)

        db = projections[1].db
        assert db.execute("SELECT model, dimension, vector FROM embedding").get == ("m", 2, STORE.vector)
        assert db.execute("SELECT hash, json_extract(vector, '$[0]', '$[1]') FROM image_embeddings").get == (
            HASHES[0],
            "[1.0,-2.0]",
        )


@settings(max_examples=60)
@given(rounds, st.randoms(use_true_random=False))
def test_any_split_and_any_redelivery_gives_the_same_digests(history: Rounds, chance: random.Random) -> None:
    """PR2, PR4, PR5: groups of any size, each delivered again with what came before it, change nothing."""
    with fresh_projections() as (domain, live):
        log = entries(run(domain, live, history))
        with fresh_projections() as (other, folded):
            at = 0
            while at < len(log):
                end = chance.randint(at + 1, len(log))
                again = chance.randint(0, at)
                fold_group(other, folded, log[again:end])
                at = end
            fold_group(other, folded, log)

            assert digests(folded) == digests(live)
            assert [p.cursor for p in folded] == [p.cursor for p in live]
            assert [p.time for p in folded] == [p.time for p in live]


@settings(max_examples=40)
@given(rounds)
def test_each_projection_folded_alone_has_the_same_digest(history: Rounds) -> None:
    """PR4: `forge rebuild` folds one projection at a time, also one that does not remember commands."""
    with fresh_projections() as (domain, live):
        log = entries(run(domain, live, history))
        for number in (0, 1):
            with fresh_projections() as (other, folded):
                fold_group(other, [folded[number]], log)

                assert digests(folded)[number] == digests(live)[number]


@settings(max_examples=40)
@given(rounds.filter(bool), st.data())
def test_a_group_that_fails_half_way_leaves_rows_and_position_untouched(history: Rounds, data: st.DataObject) -> None:
    """PR4: what comes before the failing event is undone with it; after the cause is gone all is folded."""
    with fresh_projections() as (domain, live):
        log = entries(run(domain, live, history))
        if not log:
            return
        failing = data.draw(st.integers(0, len(log) - 1))
        start = data.draw(st.integers(0, failing))
        with fresh_projections() as (other, folded):
            fold_group(other, folded, log[:start])
            before, cursors = digests(folded), [p.cursor for p in folded]

            for projection in folded:
                with (
                    _failing_at(projection, log[failing]),
                    pytest.raises(FoldFailed, match=rf"record 1\.{failing + 1} of vector/0"),
                ):
                    fold_group(other, [projection], log[start:])

            assert digests(folded) == before
            assert [p.cursor for p in folded] == cursors
            fold_group(other, folded, log[start:])
            assert digests(folded) == digests(live)


@contextmanager
def _failing_at(projection: Projection, entry: Entry) -> Iterator[None]:
    """Make the fold fail at `entry`, after it has written its rows."""
    last = entry.record.envelopes()[-1]["id"]
    spec = projection.spec

    def apply(db: apsw.Connection, events: Sequence[Event]) -> None:
        spec.apply(db, events)
        if last in [event.id for event in events]:
            raise RuntimeError("as asked")

    projection.spec = replace(spec, apply=apply)
    try:
        yield
    finally:
        projection.spec = spec


@settings(max_examples=60)
@given(rounds)
def test_the_counts_are_those_of_the_rows(history: Rounds) -> None:
    """PR7: the bound on pending jobs is checked against a count that is always right."""

    def check(projections: list[Projection]) -> None:
        counted = {"pending": 0, "processing": 0, "awaiting_payload": 0, "done": 0, "error": 0}
        counted.update(dict(projections[0].db.execute("SELECT status, count(*) FROM job GROUP BY status")))
        assert job_counts(projections[0].db) == counted

    with fresh_projections() as (domain, live):
        run(domain, live, history, check)


def test_the_folds_know_every_fact() -> None:
    """A fact that a fold passes over by accident would be lost without a word."""
    facts = {UPLOAD, CLAIM, FAIL, STORE, JobsReleased(job_ids=(), reason="", next_attempt_at=NOON)}
    facts |= {JobsRequeued(job_ids=()), PARK}
    assert {fact.TYPE for fact in facts} == set(FACTS)
    with fresh_projections() as (_, projections):
        fold(projections, UPLOAD, *facts - {UPLOAD})


def test_a_crash_between_the_two_commits_is_mended_by_folding() -> None:
    """PR1: embeddings are committed first, so a job is never done without its vector."""
    with fresh_projections() as (domain, live):
        log = entries(
            run(
                domain,
                live,
                [
                    (0, [(AcceptUpload(kind="image", file_hash=HASHES[0], size_bytes=3), None)]),
                    (0, [(ClaimJobs(worker_id="a", kinds=("image",), limit=1, lease_s=5), None)]),
                    (0, [(CompleteJob(job_id=1, worker_id="a", model="m", vector=b"\0" * 8), None)]),
                ],
            )
        )
        with fresh_projections() as (other, folded):
            fold_group(other, folded, log[:2])
            fold_group(other, folded[1:], log[2:])
            assert jobs(folded[0].db)[1]["status"] == "processing"
            assert folded[1].db.execute("SELECT count(*) FROM embedding").get == 1

            fold_group(other, folded, log)

            assert digests(folded) == digests(live)


def test_projections_open_again_where_they_stood() -> None:
    """PR4: the position is in the file."""
    with fresh_projections() as (domain, live):
        run(domain, live, [(0, [(AcceptUpload(kind="image", file_hash=HASHES[0], size_bytes=3), None)])])
        before = [p.cursor for p in live]
        with projections_of(domain) as again:
            assert [p.cursor for p in again] == before
