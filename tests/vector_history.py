"""Histories of the vector domain: random commands, decided by the real rules, as records of a log."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import apsw
import numpy
from hypothesis import strategies as st

from events.cursor import Cursor, Entry
from projectors.batch import Batch
from projectors.command_queue import Pending
from projectors.digest import digest
from projectors.domain import Domain
from projectors.outcome import Outcome
from projectors.projection import Projection
from projectors.vector.domain import PARTITION, vector_domain
from schemas.facts import Command
from schemas.instants import later
from schemas.vector import (
    AcceptUpload,
    ClaimJobs,
    CompleteJob,
    FailJob,
    ParkJobs,
    RecoverJobs,
    ReleaseJobs,
    RequeueJobs,
)

BEGIN = "2026-03-01T00:00:00.000000Z"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # hundreds of small files per property
ATTEMPTS_MAX = 2
PENDING_MAX = 3
HASHES = tuple(digit * 64 for digit in "0123")

hashes = st.sampled_from(HASHES)
kinds = st.sampled_from(["image", "text"])
workers = st.sampled_from(["worker-a", "worker-b"])
job_ids = st.integers(1, 6)
vectors = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=3).map(
    lambda numbers: numpy.array(numbers, "<f4").tobytes()
)
delays = st.sampled_from([0, 1, 20])
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(AcceptUpload, kind=kinds, file_hash=hashes, size_bytes=st.integers(1, 99)),
    st.builds(AcceptUpload, kind=kinds, file_hash=hashes, size_bytes=st.integers(1, 99)),
    st.builds(
        ClaimJobs,
        worker_id=workers,
        kinds=st.sampled_from([("image", "text"), ("image",), ("text",)]),
        limit=st.integers(1, 3),
        lease_s=st.sampled_from([5, 30]),
    ),
    st.builds(FailJob, job_id=job_ids, worker_id=workers, reason=st.just("no"), delay_s=delays),
    st.builds(
        CompleteJob, job_id=job_ids, worker_id=workers, model=st.sampled_from(["model-a", "model-b"]), vector=vectors
    ),
    st.builds(
        ReleaseJobs,
        worker_id=workers,
        job_ids=st.lists(job_ids, max_size=3).map(tuple),
        reason=st.just("away"),
        delay_s=delays,
    ),
    st.builds(
        ParkJobs, worker_id=workers, job_ids=st.lists(job_ids, max_size=3).map(tuple), reason=st.just("no bytes")
    ),
    st.builds(RecoverJobs, worker_id=workers),
    st.builds(RequeueJobs, kind=st.none() | kinds, hashes=st.none() | st.lists(hashes, max_size=2).map(tuple)),
)
rounds = st.lists(
    st.tuples(
        st.sampled_from([-40, 0, 1, 10, 40]),  # seconds that the writer's clock moves, also backwards
        st.lists(st.tuples(commands, st.none() | st.sampled_from(["id-1", "id-2", "id-3"])), min_size=1, max_size=4),
    ),
    max_size=14,
)
Rounds = Sequence[tuple[int, Sequence[tuple[Command, str | None]]]]


@dataclass(frozen=True, slots=True)
class Round:
    """One round of the commit loop: its commands and what became of them, and its record if it made one."""

    commands: list[Command]
    outcomes: list[Outcome]
    entry: Entry | None


def domain_in(directory: Path) -> Domain:
    """Return the vector domain with small bounds and its two files in `directory`."""
    return vector_domain(
        directory / "queue.db", directory / "embeddings.db", pending_max=PENDING_MAX, attempts_max=ATTEMPTS_MAX
    )


@contextmanager
def projections_of(domain: Domain) -> Iterator[list[Projection]]:
    """Open both projections."""
    with ExitStack() as closing:
        opened = [Projection(spec, PARTITION) for spec in domain.projections(PARTITION.key)]
        for projection in opened:
            closing.callback(projection.close)
        yield opened


@contextmanager
def fresh_projections() -> Iterator[tuple[Domain, list[Projection]]]:
    """Open both projections, empty, in a folder of their own."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        domain = domain_in(Path(directory))
        with projections_of(domain) as opened:
            yield domain, opened


def pending(command: Command, command_id: str | None = None) -> Pending:
    """Return a command that nobody waits for."""
    return Pending(command, "root", command_id, cast(Any, None))


def run(
    domain: Domain,
    projections: list[Projection],
    history: Rounds,
    check: Callable[[list[Projection]], None] = lambda _: None,
) -> list[Round]:
    """Decide and commit `history` as the commit loop does; call `check` after each round."""
    done = []
    clock = BEGIN
    for seconds, asked in history:
        clock = later(clock, seconds)
        batch = Batch(domain, projections, PARTITION, "node-a", partial(str, clock))
        waiting = [pending(command, command_id) for command, command_id in asked]
        decided = batch.decide(waiting)
        entry = None
        if batch.record:
            cursor = Cursor(batch.record.position, batch.record.hash, batch.before.sequence + 1)
            batch.commit(cursor)
            entry = Entry(batch.record, cursor)
        else:
            batch.rollback()
        check(projections)
        done.append(Round([p.command for p in waiting[:decided]], batch.outcomes, entry))
    return done


def entries(done: Sequence[Round]) -> list[Entry]:
    """Return the records of a history."""
    return [one.entry for one in done if one.entry]


def digests(projections: Sequence[Projection]) -> list[str]:
    """Return the digest of each projection."""
    return [digest(projection.db) for projection in projections]


def jobs(db: apsw.Connection) -> dict[int, dict[str, Any]]:
    """Return the rows of all jobs by id."""
    names = [row[1] for row in db.execute("PRAGMA table_info(job)")]
    return {row[0]: dict(zip(names, row, strict=True)) for row in db.execute("SELECT * FROM job")}
