"""Which messages a document keeps: over thirty simulated days, and when somebody looks."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projectors.control.queries import RetentionRow
from schemas.instants import format_instant, parse_instant
from schemas.messages import PruneMessages
from tests.document_history import Document, content, new_document, rebuilt
from tests.typed_commands import MIGRATIONS, answer, publish
from workers.retention import SOON_S, Pruning, RetentionWorker, Schedule

DAY_S = 86_400
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class Simulated:
    """A document that somebody publishes to, and a clock that is set."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.moment = BEGAN
        self.published: list[tuple[int, datetime, int]] = []
        document.clock = self.clock

    def clock(self) -> str:
        return format_instant(self.moment)

    def publish(self, size: int) -> None:
        told = answer(self.document, publish(payload=b"x" * size, content_type="text/plain"))["messages"][0]
        self.published.append((told["id"], self.moment, size))

    async def prune(self, db_id: str, command: PruneMessages) -> Mapping[str, Any]:
        told: Mapping[str, Any] = answer(self.document, command)
        return told

    @property
    def kept(self) -> list[int]:
        return [int(str(id_)) for (id_,) in self.document.db.execute("SELECT id FROM messages ORDER BY id").fetchall()]

    def expected(self, policy: RetentionRow) -> list[int]:
        """Return what the policy keeps of all that was ever published: the newest that keep all of its bounds."""
        kept: list[int] = []
        total = 0
        for id_, at, size in reversed(self.published):
            total += size
            too_old = policy.max_age_s is not None and self.moment - at > timedelta(seconds=policy.max_age_s)
            too_many = policy.max_count is not None and len(kept) >= policy.max_count
            if too_old or too_many or (policy.max_bytes is not None and total > policy.max_bytes):
                break
            kept.append(id_)
        return kept[::-1]


@pytest.mark.parametrize(
    "policy",
    [
        None,
        RetentionRow(max_age_s=7 * DAY_S),
        RetentionRow(max_count=50),
        RetentionRow(max_bytes=3000),
        RetentionRow(max_age_s=3 * DAY_S, max_count=40, max_bytes=2000),
    ],
)
async def test_over_thirty_days_exactly_what_a_policy_says_is_removed(policy: RetentionRow | None) -> None:
    """P3.10: without a policy nothing ever; with one, whenever its schedule says that somebody must look."""
    with new_document(MIGRATIONS) as document:
        world, schedule = Simulated(document), Schedule()
        pruning = Pruning(world.prune, world.clock)
        for hour in range(0, 30 * 24, 3):
            until = BEGAN + timedelta(hours=hour)
            while policy and (due_s := schedule.next_s()) is not None and due_s <= until.timestamp():
                world.moment = max(world.moment, datetime.fromtimestamp(due_s, UTC))
                assert schedule.take(pruning.now_s()) == "notes"
                if (again_s := await pruning.look("notes", policy)) is not None:
                    schedule.at("notes", again_s)
                assert world.kept == world.expected(policy)
            world.moment = until
            for size in (10 + hour % 37, 200 if hour % 24 == 0 else 1):
                world.publish(size)
            schedule.at("notes", pruning.now_s() + SOON_S)

        if policy is None:
            assert len(world.kept) == len(world.published) == 480
        else:
            await pruning.look("notes", policy)
            assert world.kept == world.expected(policy)
            assert 0 < len(world.kept) < 120
        with rebuilt(document) as copy:
            assert content(copy) == content(document.db)


async def test_more_than_one_part_is_removed_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """PR7: it is due again at once."""
    monkeypatch.setattr("projectors.document.messages.commands.PRUNED_MAX", 4)
    with new_document(MIGRATIONS) as document:
        world = Simulated(document)
        for _ in range(10):
            world.publish(1)
        pruning, policy = Pruning(world.prune, world.clock), RetentionRow(max_count=1)

        assert await pruning.look("notes", policy) == pruning.now_s()
        assert await pruning.look("notes", policy) == pruning.now_s()
        assert await pruning.look("notes", policy) is None
        assert world.kept == [10]


async def test_the_next_look_is_when_the_oldest_message_comes_of_age() -> None:
    with new_document(MIGRATIONS) as document:
        world = Simulated(document)
        world.publish(1)
        world.moment += timedelta(hours=1)
        pruning = Pruning(world.prune, world.clock)

        due_s = await pruning.look("notes", RetentionRow(max_age_s=DAY_S))
        assert due_s == parse_instant(format_instant(BEGAN)).timestamp() + DAY_S


async def test_a_failure_that_nobody_foresaw_ends_neither_the_worker_nor_the_turn_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PR7: what was to be removed is, once it can be."""
    monkeypatch.setattr("workers.retention.RETRY_S", 0.0)
    failures = [OSError("the policies"), OSError("the first document")]
    looked: list[str] = []
    done = asyncio.Event()

    def fail_if_it_should() -> None:
        if failures:
            raise failures.pop(0)

    async def policies() -> Mapping[str, RetentionRow]:
        if len(failures) == 2:
            fail_if_it_should()
        return {"a": RetentionRow(max_count=1), "b": RetentionRow(max_count=1)}

    async def prune(db_id: str, _: PruneMessages) -> Mapping[str, Any]:
        fail_if_it_should()
        looked.append(db_id)
        if len(looked) == 2:
            done.set()
        return {"pruned": 0, "more": False, "oldest": None}

    running = asyncio.create_task(RetentionWorker(Pruning(prune), policies).run())
    async with asyncio.timeout(60):
        await done.wait()
    running.cancel()
    assert sorted(looked) == ["a", "b"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=30))
def test_a_schedule_gives_each_document_once_at_the_earliest_moment_it_was_told(told: list[tuple[str, int]]) -> None:
    schedule = Schedule()
    for db_id, due_s in told:
        schedule.at(db_id, due_s)
    earliest = {db_id: min(due for other, due in told if other == db_id) for db_id, _ in told}

    taken = []
    for now_s in range(21):
        while (due := schedule.take(now_s)) is not None:
            taken.append((due, now_s))
    assert dict(taken) == earliest
    assert len(taken) == len(earliest)
    assert schedule.next_s() is None
