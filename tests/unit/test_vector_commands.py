"""Deciding in the vector domain: no sequence of commands leads to a state that cannot be."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from events.envelope import Event, decode_events
from projectors.projection import Projection
from projectors.vector.fold import SET_ASIDE
from schemas.facts import Command
from schemas.problems import Refusal
from schemas.vector import (
    DIMENSION_MAX,
    FACTS,
    REASON_LENGTH_MAX,
    AcceptUpload,
    ClaimJobs,
    CompleteJob,
    EmbeddingStored,
    FailJob,
    JobFailed,
    JobsClaimed,
    JobsParked,
    JobsReleased,
    JobsRequeued,
    ParkJobs,
    RecoverJobs,
    ReleaseJobs,
    RequeueJobs,
    UploadAccepted,
)
from tests.vector_history import (
    ATTEMPTS_MAX,
    HASHES,
    PENDING_MAX,
    Round,
    Rounds,
    fresh_projections,
    jobs,
    rounds,
    run,
)

UPLOAD = AcceptUpload(kind="image", file_hash=HASHES[0], size_bytes=3)
CLAIM = ClaimJobs(worker_id="worker-a", kinds=("image", "text"), limit=9, lease_s=30)
VECTOR = b"\0\0\x80?" * 2


def failing(job_id: int = 1, worker: str = "worker-a", reason: str = "no", delay_s: float = 0) -> FailJob:
    return FailJob(job_id=job_id, worker_id=worker, reason=reason, delay_s=delay_s)


def completing(job_id: int = 1, worker: str = "worker-a", vector: bytes = VECTOR) -> CompleteJob:
    return CompleteJob(job_id=job_id, worker_id=worker, model="m", vector=vector)


def decided(*steps: Command | tuple[int, Command]) -> tuple[list[Any], dict[int, dict[str, Any]]]:
    """Return the outcome of each command (seconds may pass before it) and the jobs after the last."""
    history: Rounds = [
        (step[0], [(step[1], None)]) if isinstance(step, tuple) else (0, [(step, None)]) for step in steps
    ]
    with fresh_projections() as (domain, projections):
        done = run(domain, projections, history)
        return [_value(one) for one in done], jobs(projections[0].db)


def _value(done: Round) -> Any:
    (outcome,) = done.outcomes
    return outcome if isinstance(outcome, Exception) else outcome[1]


def test_the_first_failure_waits_and_the_last_is_a_dead_letter() -> None:
    """Spec 8, assertion 13: with max 2, pending with attempts 1, then error with attempts 2; the payload stays."""
    _, after_one = decided(UPLOAD, CLAIM, failing())
    _, after_two = decided(UPLOAD, CLAIM, failing(), (1, CLAIM), failing())

    assert (after_one[1]["status"], after_one[1]["attempts"]) == ("pending", 1)
    assert (after_two[1]["status"], after_two[1]["attempts"]) == ("error", 2)
    assert after_two[1]["payload"] == HASHES[0]


def test_a_long_reason_is_cut_to_a_thousand_characters() -> None:
    """Spec 8, assertion 14: 1,205 characters are stored as exactly 1,000; pending while attempts are left."""
    _, after = decided(UPLOAD, CLAIM, failing(reason="x" * 1205))

    assert len(after[1]["last_error"]) == REASON_LENGTH_MAX == 1000
    assert after[1]["status"] == "pending"


def test_an_upload_of_a_dead_letter_starts_it_afresh() -> None:
    """Spec 8, assertion 15: pending, attempts 0, no last error, the new payload, the same job."""
    answers, after = decided(
        UPLOAD, CLAIM, failing(), (1, CLAIM), failing(), UPLOAD.model_copy(update={"size_bytes": 8})
    )

    assert answers[-1] == {"status": "accepted", "job_id": 1}
    assert (after[1]["status"], after[1]["attempts"], after[1]["last_error"]) == ("pending", 0, None)
    assert (after[1]["payload"], after[1]["size_bytes"]) == (HASHES[0], 8)


def test_the_same_file_is_one_job_until_it_is_done_and_then_present() -> None:
    """Dedupe by (file, kind): a retry of an upload costs nothing (PR5)."""
    answers, after = decided(UPLOAD, UPLOAD, CLAIM, UPLOAD, completing(), UPLOAD)

    accepted = {"status": "accepted", "job_id": 1}
    assert [answers[n] for n in (0, 1, 3)] == [accepted] * 3
    assert answers[-1] == {"status": "already_present"}
    assert len(after) == 1


def test_the_same_bytes_of_another_kind_are_another_job() -> None:
    _, after = decided(UPLOAD, UPLOAD.model_copy(update={"kind": "text"}))

    assert [job["kind"] for job in after.values()] == ["image", "text"]


def test_a_full_queue_refuses_what_is_new_and_takes_what_it_knows() -> None:
    """PR7: 429 above the bound."""
    uploads = [AcceptUpload(kind=k, file_hash=h, size_bytes=1) for h in HASHES for k in ("image", "text")]
    answers, after = decided(*uploads, uploads[0])

    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    assert len(after) == PENDING_MAX + 1
    assert len(refused) == len(uploads) - PENDING_MAX - 1
    assert {(r.problem.status, r.problem.retry_after_s) for r in refused} == {(429, 5)}
    assert answers[-1] == {"status": "accepted", "job_id": 1}


def test_a_claim_is_the_worker_s_own_until_its_lease_runs_out() -> None:
    other = CLAIM.model_copy(update={"worker_id": "worker-b"})
    answers, after = decided(UPLOAD, CLAIM, (29, other), (1, other), other)

    assert [len(answer["jobs"]) for answer in answers[1:]] == [1, 0, 0, 1]
    assert after[1]["worker_id"] == "worker-b"


def test_a_failure_reported_by_a_worker_that_lost_the_job_charges_nothing() -> None:
    answers, after = decided(UPLOAD, CLAIM, failing(worker="worker-b"))

    assert answers[-1] == {"dead": False}
    assert (after[1]["status"], after[1]["attempts"]) == ("processing", 0)


def test_a_vector_that_comes_late_is_stored_once() -> None:
    """Work that is done is not thrown away because a lease ran out; the second answer changes nothing."""
    other = CLAIM.model_copy(update={"worker_id": "worker-b"})
    answers, after = decided(UPLOAD, CLAIM, (31, other), other, completing(), completing(worker="worker-b"))

    assert answers[-2:] == [{"stored": True}, {"stored": False}]
    assert after[1]["status"] == "done"


def test_a_vector_of_another_dimension_costs_an_attempt() -> None:
    """One dimension per (kind, model)."""
    second = AcceptUpload(kind="image", file_hash=HASHES[1], size_bytes=3)
    answers, after = decided(UPLOAD, second, CLAIM, completing(), completing(2, vector=VECTOR + b"\0\0\0\0"))

    assert answers[-1]["stored"] is False
    assert (after[2]["status"], after[2]["attempts"]) == ("pending", 1)
    assert "m has 2 dimensions for kind image, this answer has 3" in after[2]["last_error"]


def test_a_release_charges_no_attempt_and_is_only_for_one_s_own_jobs() -> None:
    answers, after = decided(
        UPLOAD,
        CLAIM,
        ReleaseJobs(worker_id="worker-b", job_ids=(1,), reason="away"),
        ReleaseJobs(worker_id="worker-a", job_ids=(1, 77), reason="away", delay_s=5),
        (4, CLAIM),
        (1, CLAIM),
    )

    assert [answers[n]["released"] for n in (2, 3)] == [0, 1]
    assert [len(answers[n]["jobs"]) for n in (4, 5)] == [0, 1]
    assert after[1]["attempts"] == 0


def parking(*job_ids: int, worker: str = "worker-a") -> ParkJobs:
    return ParkJobs(worker_id=worker, job_ids=job_ids, reason="no bytes")


def test_a_job_without_its_bytes_is_parked_and_an_upload_brings_it_back() -> None:
    """G17: no attempt is charged, nobody claims it, it does not count as pending, and the bytes start it afresh."""
    answers, after = decided(UPLOAD, CLAIM, parking(1), (999, CLAIM))

    assert answers[-2:] == [{"parked": 1}, {"jobs": []}]
    assert (after[1]["status"], after[1]["attempts"], after[1]["last_error"]) == ("awaiting_payload", 0, "no bytes")
    assert (after[1]["worker_id"], after[1]["lease_until"]) == (None, None)

    answers, after = decided(UPLOAD, CLAIM, parking(1), UPLOAD, CLAIM, completing())
    assert answers[3] == {"status": "accepted", "job_id": 1}
    assert (answers[-1], after[1]["status"]) == ({"stored": True}, "done")


def test_only_one_s_own_jobs_are_parked_and_a_requeue_brings_them_back() -> None:
    """G17: a worker that lost its claim parks nothing; `forge vector requeue` tries again what was parked."""
    answers, after = decided(UPLOAD, CLAIM, parking(1, worker="worker-b"), parking(1, 77), RequeueJobs())

    assert answers[2:] == [{"parked": 0}, {"parked": 1}, {"requeued": 1}]
    assert (after[1]["status"], after[1]["last_error"]) == ("pending", None)


def test_recovery_takes_the_jobs_of_all_other_workers() -> None:
    """At start nobody else works here any more."""
    answers, after = decided(
        UPLOAD, CLAIM, RecoverJobs(worker_id="worker-a"), RecoverJobs(worker_id="worker-c"), (0, CLAIM)
    )

    assert [answers[n]["released"] for n in (2, 3)] == [0, 1]
    assert after[1]["status"] == "processing"


def test_requeue_takes_the_dead_letters_that_are_named() -> None:
    dead: list[Command | tuple[int, Command]] = [UPLOAD, CLAIM, failing(), (1, CLAIM), failing()]
    other_kind, _ = decided(*dead, RequeueJobs(kind="text"))
    other_hash, _ = decided(*dead, RequeueJobs(hashes=(HASHES[1],)))
    named, after = decided(*dead, RequeueJobs(kind="image", hashes=(HASHES[0],)), RequeueJobs())

    assert (other_kind[-1], other_hash[-1]) == ({"requeued": 0}, {"requeued": 0})
    assert named[-2:] == [{"requeued": 1}, {"requeued": 0}]
    assert (after[1]["status"], after[1]["attempts"], after[1]["last_error"]) == ("pending", 0, None)


def test_an_unknown_command_changes_nothing() -> None:
    class Strange(Command):
        pass

    answers, after = decided(UPLOAD, Strange())

    assert isinstance(answers[-1], Refusal)
    assert answers[-1].problem.status == 500
    assert len(after) == 1


@pytest.mark.parametrize("vector", [b"", b"\0\0\0", b"\0" * 5, b"\0" * 4 * (DIMENSION_MAX + 1)])
def test_a_vector_is_whole_numbers_and_bounded(vector: bytes) -> None:
    """PR7: clients on NATS send commands as they like; what is stored must be readable for ever."""
    with pytest.raises(ValidationError, match="float32"):
        completing(vector=vector)


@settings(max_examples=150)
@given(rounds)
def test_no_sequence_of_commands_leads_to_an_impossible_state(history: Rounds) -> None:
    """Every fact follows from the state before it, and the rows say what a reading of the facts says."""
    with fresh_projections() as (domain, projections):
        done = run(domain, projections, history, _check_rows)
        model = Model()
        for entry in (one.entry for one in done if one.entry):
            for event in decode_events(entry.record.json(), FACTS):
                model.apply(event)

        rows = jobs(projections[0].db)
        assert {job: {name: rows[job][name] for name in state} for job, state in model.jobs.items()} == model.jobs
        assert len(rows) == len(model.jobs)


@settings(max_examples=60)
@given(rounds)
def test_a_clock_that_goes_back_does_not_reorder_the_log(history: Rounds) -> None:
    """The time of events never goes back within a partition, whatever the machine's clock does."""
    with fresh_projections() as (domain, projections):
        done = run(domain, projections, history)
    times = [envelope["time"] for one in done if one.entry for envelope in one.entry.record.envelopes()]

    assert times == sorted(times)


def _check_rows(projections: list[Projection]) -> None:
    queue, embeddings = projections
    stored = set(embeddings.db.execute("SELECT file_hash, kind FROM embedding"))
    rows = jobs(queue.db)
    assert stored == {(job["file_hash"], job["kind"]) for job in rows.values() if job["status"] == "done"}
    for job in rows.values():
        held = job["status"] == "processing"
        assert (job["worker_id"] is not None, job["lease_until"] is not None) == (held, held), job
        assert job["created_at"] <= job["updated_at"]
        match job["status"]:
            case "error":
                assert job["attempts"] == ATTEMPTS_MAX
                assert job["last_error"]
            case "pending" | "processing" | "awaiting_payload":
                assert job["attempts"] < ATTEMPTS_MAX
            case "done":
                assert job["last_error"] is None


class Model:
    """What the facts say, read one by one; asserts that each was possible."""

    def __init__(self) -> None:
        self.jobs: dict[int, dict[str, Any]] = {}

    def apply(self, event: Event) -> None:
        match event.fact:
            case UploadAccepted(job_id=job_id):
                assert self.jobs.get(job_id, {"status": "error"})["status"] in SET_ASIDE
                self._set(job_id, "pending", attempts=0, last_error=None, next_attempt_at=event.time)
            case JobsClaimed(job_ids=job_ids, worker_id=worker, lease_until=until):
                assert until > event.time
                for job_id in job_ids:
                    assert self.jobs[job_id]["status"] == "pending"
                    assert self.jobs[job_id]["next_attempt_at"] <= event.time
                    self._set(job_id, "processing", worker, until)
            case JobsReleased(job_ids=job_ids, reason=reason, next_attempt_at=due):
                self._move(job_ids, ("processing",), "pending", last_error=reason, next_attempt_at=due)
            case JobsParked(job_ids=job_ids, reason=reason):
                self._move(job_ids, ("processing",), "awaiting_payload", last_error=reason)
            case JobFailed(job_id=job_id, attempts=attempts, reason=reason, next_attempt_at=due):
                assert self.jobs[job_id]["status"] == "processing"
                assert attempts == self.jobs[job_id]["attempts"] + 1
                assert (due is None) == (attempts == ATTEMPTS_MAX)
                self._set(job_id, "pending" if due else "error", attempts=attempts, last_error=reason)
                self.jobs[job_id]["next_attempt_at"] = due or self.jobs[job_id]["next_attempt_at"]
            case JobsRequeued(job_ids=job_ids):
                fresh = {"attempts": 0, "last_error": None, "next_attempt_at": event.time}
                self._move(job_ids, SET_ASIDE, "pending", **fresh)
            case EmbeddingStored(job_id=job_id):
                assert self.jobs[job_id]["status"] != "done"
                self._set(job_id, "done", last_error=None)

    def _move(self, job_ids: Sequence[int], before: Sequence[str], status: str, **more: Any) -> None:
        for job_id in job_ids:
            assert self.jobs[job_id]["status"] in before
            self._set(job_id, status, **more)

    def _set(
        self, job_id: int, status: str, worker: str | None = None, lease_until: str | None = None, **more: Any
    ) -> None:
        self.jobs.setdefault(job_id, {}).update(status=status, worker_id=worker, lease_until=lease_until, **more)
