"""A standby's log follows the archive of another node's, and what is read from it is the same."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from events.cursor import Cursor
from events.epoch_ends import begin_epoch
from events.log import Log
from events.objects.memory import MemoryStore
from events.objects.port import Object, checksum
from events.read import follow
from events.write_guard import WriteGuard
from forge.standby_service import Standby
from projectors.partitions import Partitions
from projectors.rebuild import digest_of
from projectors.tasks import end
from schemas.archive import Mark, mark_key
from schemas.ids import PartitionId, Position
from schemas.problems import NOT_THE_WRITER, Refusal
from tests.archives import PREFIX, archiving
from tests.conftest import StartNats
from tests.notes import TIME, AddNotes, eventually, new_partition
from tests.restoring import Machine, machine
from workers.lease.none import NoLease
from workers.standby.changes import DAMAGED, Changes, changes, marks
from workers.standby.compared import Compared
from workers.standby.follower import ArchiveFollower

STREAM = "FORGE_DOCS"


@asynccontextmanager
async def following(standby: Machine, partitions: Partitions | None = None) -> AsyncIterator[ArchiveFollower]:
    """Follow the archive on `standby`, and tell `partitions`."""

    def heard(partition: PartitionId) -> None:
        if partitions and (opened := partitions.find(partition)):
            opened.look()

    follower = ArchiveFollower(
        standby.archive,
        standby.log,
        compared=Compared(epoch=(await standby.archive.epochs.refresh()).epoch),
        holder_epoch=lambda: 0,
        heard=heard,
        poll_s=0.05,
    )
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        await end(task)


@asynccontextmanager
async def opened(standby: Machine, log: Log) -> AsyncIterator[Partitions]:
    guard = WriteGuard()
    guard.close("another node is the writer")
    partitions = Partitions(log, {"doc": standby.domain}, node="standby", idle_s=300, guard=guard)
    try:
        yield partitions
    finally:
        await partitions.close()


async def test_a_standby_reads_what_the_writer_has_written_and_takes_no_command(
    start_nats: StartNats, tmp_path: Path
) -> None:
    """PR2 and G30: the same digest at the same position, soon after it is archived, while the partition stays open."""
    store, partition = MemoryStore(), new_partition()
    async with (
        machine(tmp_path / "writer", await start_nats(), store) as writer,
        machine(tmp_path / "standby", await start_nats(), store) as standby,
        archiving(writer.log, store),
        opened(standby, standby.log) as partitions,
        following(standby, partitions) as follower,
    ):
        for round_ in range(3):
            position = await writer.write(partition, f"a{round_}", f"b{round_}")
            await partitions[partition].reached(position, 60)
        assert [digest_of(spec.path) for spec in standby.domain.projections("")] == writer.digests
        assert await standby.records(partition) == await writer.records(partition)
        with pytest.raises(Refusal) as refused:
            await partitions.submit(partition, AddNotes(texts=("no",)), principal="root")
        assert (refused.value.problem.status, refused.value.problem.type) == (503, NOT_THE_WRITER.uri)
        assert not follower.trouble
        assert not follower.stopped


async def test_a_standby_that_missed_changes_looks_through_all(start_nats: StartNats, tmp_path: Path) -> None:
    """PR7: the list of changes is bounded, and nothing depends on having seen each."""
    store = MemoryStore()
    documents = [new_partition() for _ in range(12)]
    async with (
        machine(tmp_path / "writer", await start_nats(), store) as writer,
        machine(tmp_path / "standby", await start_nats(), store) as standby,
    ):
        for partition in documents:
            await writer.archived(partition, await writer.write(partition, "a note"))
        async with following(standby), asyncio.timeout(60):
            for partition in documents:
                async with aclosing(
                    follow(standby.log.reader, standby.log.live, partition, Cursor.start(partition))
                ) as records:
                    assert (await anext(records)).cursor.position == Position(1, 1)


@pytest.mark.parametrize("altered", [True, False], ids=["altered", "no JSON"])
async def test_a_mark_that_is_damaged_costs_looking_at_all_and_is_said(
    start_nats: StartNats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, altered: bool
) -> None:
    """PR2: it is a hint; what is archived is followed without it, again and again, until it is whole."""
    monkeypatch.setattr("workers.standby.follower.ALL_EVERY_S", 0.05)
    store, partition = MemoryStore(), new_partition()
    key = f"{PREFIX}/{mark_key(STREAM)}"
    async with (
        machine(tmp_path / "writer", await start_nats(), store) as writer,
        machine(tmp_path / "standby", await start_nats(), store) as standby,
    ):
        for text in ("one", "two"):
            end = await writer.write(partition, text)
            await writer.archived(partition, end)
            whole = store.objects[key]
            store.objects[key] = Object(b"no JSON", "another tag" if altered else checksum(b"no JSON"))
            async with following(standby) as follower, asyncio.timeout(20):
                while await standby.records(partition) != await writer.records(partition):  # noqa: ASYNC110 - asked
                    await asyncio.sleep(0.01)
                await eventually(lambda: f"damaged in the archive: log/{STREAM}/mark.json" in follower.trouble)
                assert follower.behind_s < 20
                store.objects[key] = whole
                await eventually(lambda: not follower.trouble)


async def test_a_log_that_is_damaged_in_one_partition_stops_that_one_alone(
    start_nats: StartNats, tmp_path: Path
) -> None:
    """PR2: nobody repairs it in silence, and the others are followed."""
    store, bad, good = MemoryStore(), new_partition(), new_partition()
    async with (
        machine(tmp_path / "writer", await start_nats(), store) as writer,
        machine(tmp_path / "standby", await start_nats(), store) as standby,
    ):
        jetstream = await standby.log.writer.jetstream()
        await jetstream.publish(bad.subject, b"no record")
        for partition in (bad, good):
            await writer.archived(partition, await writer.write(partition, "a note"))
        async with following(standby) as follower:
            await eventually(lambda: follower.stopped.keys() == {str(bad)})
            async with asyncio.timeout(60):
                while await standby.records(good) != await writer.records(good):  # noqa: ASYNC110 - it is asked
                    await asyncio.sleep(0.01)
            assert not follower.trouble


async def test_a_follower_ends_when_another_epoch_begins(start_nats: StartNats, tmp_path: Path) -> None:
    """PR3: what it has may then be of another history."""
    store = MemoryStore()
    async with machine(tmp_path / "standby", await start_nats(), store) as standby:
        follower = ArchiveFollower(
            standby.archive,
            standby.log,
            compared=Compared(epoch=1),
            holder_epoch=lambda: 2,
            heard=lambda _: None,
            poll_s=0.05,
        )
        task = asyncio.create_task(follower.run())
        await eventually(lambda: follower.behind_s < 0.05)
        assert not task.done(), "the holder of the lease has not begun yet"

        await begin_epoch(standby.archive, 2, node="other", time=TIME)

        async with asyncio.timeout(60):
            await task


async def test_a_follower_that_fails_says_why_and_has_everything_compared_anew(
    start_nats: StartNats, tmp_path: Path
) -> None:
    """A task that nobody waits for must not end without a word."""
    store = MemoryStore()
    async with machine(tmp_path / "standby", await start_nats(), store) as here, opened(here, here.log) as partitions:
        key = here.archive.key(mark_key("FORGE_DOCS"))
        said = Mark(sequence=1, created="the writer's", teller="the writer", busy=())
        await store.put(key, said.model_dump_json().encode())
        compared = Compared(await marks(here.archive), epoch=1)
        standby = Standby(NoLease(epoch_one), compared, 0.05, 0.0, asyncio.Event())
        with capture_logs() as logs:
            async with standby.following(here.archive, here.log, partitions), asyncio.timeout(60):
                bad = said.model_copy(update={"told": 1, "changed": ("no partition",)})
                await store.put(key, bad.model_dump_json().encode())
                await standby.over.wait()

        assert [str(line["exc_info"]) for line in logs if line["log_level"] == "error"] == [
            "not a log subject: 'forge.log.no partition'"
        ]


async def epoch_one() -> int:
    return 1


def test_marks_tell_which_partitions_have_changed_or_that_any_may_have() -> None:
    def told(teller: str, count: int, *tokens: str) -> dict[str, Mark]:
        return {"FORGE_DOCS": Mark(sequence=9, created="then", teller=teller, told=count, changed=tokens)}

    def seen(before: dict[str, Mark], now: dict[str, Mark]) -> Sequence[Changes]:
        return changes(before, now)

    a, b = PartitionId("doc", "a"), PartitionId("doc", "b")
    first = told("x", 2, "doc.a", "doc.a")

    assert seen(first, first) == []
    assert seen(first, told("x", 3, "doc.a", "doc.a", "doc.b")) == [Changes("FORGE_DOCS", frozenset([b]))]
    assert seen(first, told("x", 4, "doc.a", "doc.b")) == [Changes("FORGE_DOCS", frozenset([a, b]))]
    for missed in (told("x", 5, "doc.a", "doc.b"), told("y", 2, "doc.a", "doc.a"), told("x", 1, "doc.a")):
        assert seen(first, missed) == [Changes("FORGE_DOCS", None)]
    damaged = {"FORGE_DOCS": DAMAGED}
    for pair in ((first, damaged), (damaged, damaged), (damaged, first), ({}, damaged)):
        assert seen(*pair) == [Changes("FORGE_DOCS", None)]
    assert seen({}, first) == [Changes("FORGE_DOCS", None)]
