"""Watches over documents on a real log."""

import asyncio
from pathlib import Path

import pytest

from events.cursor import Cursor
from events.read import read
from forge.stack.nats import NatsServer
from projectors.document.domain import document_partition
from projectors.document.watches.watching import WatchBounds
from schemas.ids import Position
from schemas.problems import DOCUMENT_DELETED, Refusal
from tests.notes import append_note, opened_log
from tests.watching import WITHIN_S, Follower, new_db_id, new_watching, opened_watching

NOTE = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT, value)"
TAG = "CREATE TABLE tag (name TEXT PRIMARY KEY)"
COUNT = "SELECT count(*) AS n FROM note"


async def test_a_watch_begins_with_the_result_and_goes_on_with_each_change(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """P2.8: snapshot, then updates; ids are the positions of the commits that they show."""
    async with new_watching(nats_server, tmp_path) as watching:
        created = await watching.sql(NOTE)
        follower = watching.follow(COUNT)
        first = await follower.next()
        written = await watching.sql("INSERT INTO note (text) VALUES ('a'), ('b')")
        second = await follower.next()

    assert (first.event, first.position, first.data["rows"]) == ("snapshot", created, [[0]])
    assert (second.event, second.position, second.data["rows"]) == ("update", written, [[2]])
    assert second.data == second.data | {"columns": ["n"], "row_count": 1, "position": str(written)}


async def test_values_arrive_as_queries_answer_them(nats_server: NatsServer, tmp_path: Path) -> None:
    """P2.8: integers beyond 2^53 and blobs survive; column names may repeat."""
    async with new_watching(nats_server, tmp_path) as watching:
        seen = await watching.follow("SELECT 9007199254740993 AS a, x'00ff' AS a, 1.5, 'x', NULL, :n", {"n": 7}).next()

    assert seen.data["columns"][:2] == ["a", "a"]
    assert seen.data["rows"] == [[{"$int": "9007199254740993"}, {"$blob": "AP8="}, 1.5, "x", None, 7]]


async def test_a_hundred_identical_watches_cost_one_evaluation_per_commit(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """P2.10: text, arguments and options are the same, and so is the encoded event."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE)
        followers = [watching.follow("SELECT max(id) FROM note WHERE id > ?", [0]) for _ in range(100)]
        for follower in followers:
            await follower.next()
        for number in range(1, 4):
            await watching.sql("INSERT INTO note (id) VALUES (?)", args=[number])
            frames = [await follower.subscription.next(WITHIN_S) for follower in followers]
            assert b"update" in frames[0]
            assert all(frame is frames[0] for frame in frames), "one encoded frame for all"

        assert len(watching.evaluator.evaluated) == 4


async def test_writes_that_change_no_result_and_writes_that_fail_send_nothing(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """P2.10: rolled-back and failed writes do not trigger; an unchanged hash is no update."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE, "INSERT INTO note VALUES (1, 'a', 0)")
        follower = watching.follow("SELECT text FROM note")
        await follower.next()
        with pytest.raises(Refusal):
            await watching.sql("UPDATE note SET text = 'b'", "INSERT INTO note VALUES (1, 'c', 0)")
        await watching.settled()
        assert watching.evaluator.evaluated.count("SELECT text FROM note") == 1

        position = await watching.sql("UPDATE note SET value = value + 1")
        await watching.settled()
        assert watching.evaluator.evaluated.count("SELECT text FROM note") == 2
        assert (await follower.next(0.01)).event == "heartbeat"
        assert follower.seen[-1].position == position


async def test_a_slow_follower_is_told_the_newest_result_only(nats_server: NatsServer, tmp_path: Path) -> None:
    """P2.8: updates are coalesced; what a stream keeps is one result that all share."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE)
        slow, quick = watching.follow(COUNT), watching.follow(COUNT)
        await slow.next()
        await quick.next()
        for number in range(1, 21):
            await watching.sql("INSERT INTO note (text) VALUES ('a')")
            await quick.until_rows([[number]])

        assert (await slow.next()).data["rows"] == [[20]]


async def test_a_follower_that_saw_the_same_result_before_is_not_told_again(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """P2.X: no two results in a row have the same hash, also when one in between was passed over."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE)
        slow, quick = watching.follow(COUNT), watching.follow(COUNT)
        await slow.next()
        await quick.next()
        await watching.sql("INSERT INTO note (id) VALUES (1)")
        await quick.until_rows([[1]])
        await watching.sql("DELETE FROM note")
        await quick.until_rows([[0]])

        assert (await slow.next(0.01)).event == "heartbeat"


async def test_who_writes_and_then_watches_sees_the_write(nats_server: NatsServer, tmp_path: Path) -> None:
    """P2.7: also when somebody else watches the same, and its result is not evaluated again yet."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE)
        await watching.follow(COUNT).next()
        for number in range(1, 30):
            position = await watching.sql("INSERT INTO note (text) VALUES ('a')")
            follower = watching.follow(COUNT)
            first = await follower.next()
            assert (first.event, first.data["rows"]) == ("snapshot", [[number]])
            assert first.position is not None
            assert first.position >= position
            follower.subscription.close()


async def test_no_commit_is_missed_while_the_first_evaluation_runs(nats_server: NatsServer, tmp_path: Path) -> None:
    """G-20: a watch is registered before its first evaluation."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE)
        slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) SELECT count(*), "
        follower = watching.follow(slow + "(SELECT count(*) FROM note) FROM n")
        told = asyncio.create_task(follower.next())
        for _ in range(5):
            await watching.sql("INSERT INTO note (text) VALUES ('a')")
        await told

        await follower.until_rows([[200000, 5]])


async def test_who_comes_back_is_told_only_if_something_changed(nats_server: NatsServer, tmp_path: Path) -> None:
    """P2.8: Last-Event-ID resumes exactly."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE, TAG)
        follower = watching.follow(COUNT)
        seen = (await follower.next()).position
        follower.subscription.close()
        unrelated = await watching.sql("INSERT INTO tag VALUES ('a')")

        back = watching.follow(COUNT, last_seen=seen)
        assert await back.next() == ("heartbeat", unrelated, {"position": str(unrelated)})
        back.subscription.close()
        changed = await watching.sql("INSERT INTO note (text) VALUES ('a')")

        again = watching.follow(COUNT, last_seen=unrelated)
        assert (await again.next())[:2] == ("snapshot", changed)
        same = watching.follow(COUNT, last_seen=changed)
        assert (await same.next()).event == "heartbeat"
        later = await watching.sql("INSERT INTO note (text) VALUES ('b')")
        assert await same.next() == again.seen[-1]._replace(event="update", position=later, data=same.seen[-1].data)


@pytest.mark.parametrize("strange", [Position(1, 10_000), Position(7, 1), Position(0, 1)])
async def test_an_unknown_position_gets_the_whole_result(
    nats_server: NatsServer, tmp_path: Path, strange: Position
) -> None:
    """P2.8: an id beyond the end, or of another epoch, says nothing about what the client has."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE)
        assert (await watching.follow(COUNT, last_seen=strange).next()).event == "snapshot"


async def test_after_a_restart_the_newest_position_still_resumes(nats_server: NatsServer, tmp_path: Path) -> None:
    """P2.9: the hash is the same in another process, and nothing is sent twice to who has it all."""
    db_id = new_db_id()
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE, db_id=db_id)
        written = await watching.sql("INSERT INTO note VALUES (1, 'a', 1.5)", db_id=db_id)
        before = await watching.follow("SELECT * FROM note", db_id=db_id).next()
    async with new_watching(nats_server, tmp_path) as watching:
        after = await watching.follow("SELECT * FROM note", db_id=db_id).next()
        resumed = watching.follow("SELECT * FROM note", db_id=db_id, last_seen=written)
        older = watching.follow("SELECT * FROM note", db_id=db_id, last_seen=Position(1, written.index - 1))

        assert after == before
        assert (await resumed.next()).event == "heartbeat"
        assert (await older.next()).event == "snapshot"


async def test_a_watch_ends_with_the_reason_when_its_table_is_gone(nats_server: NatsServer, tmp_path: Path) -> None:
    """P2.8: error, then nothing more; others go on."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE, TAG)
        notes, tags = watching.follow(COUNT), watching.follow("SELECT count(*) FROM tag")
        await notes.next()
        await tags.next()
        await watching.sql("DROP TABLE note")

        with pytest.raises(Refusal, match="no such table: note"):
            await notes.next()
        await watching.sql("INSERT INTO tag VALUES ('a')")
        assert (await tags.next()).data["rows"] == [[1]]


async def test_a_result_past_a_bound_ends_its_watch(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR7: `max_rows` counts."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE, "INSERT INTO note (id) VALUES (1), (2)")
        follower = watching.follow("SELECT id FROM note", max_rows=2)
        await follower.next()
        await watching.sql("INSERT INTO note (id) VALUES (3)")

        with pytest.raises(Refusal) as ended:
            await follower.next()
        assert ended.value.problem.status == 413


async def test_the_watches_of_a_deleted_document_end(nats_server: NatsServer, tmp_path: Path) -> None:
    """P2.8: error, then close."""
    async with new_watching(nats_server, tmp_path) as watching:
        await watching.sql(NOTE)
        follower = watching.follow(COUNT)
        await follower.next()
        watching.watches.end(watching.db_id, DOCUMENT_DELETED.problem("it was deleted"))

        with pytest.raises(Refusal) as ended:
            await follower.next()
        assert ended.value.problem.status == 410


async def test_past_a_bound_new_watches_are_refused_and_open_ones_go_on(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """PR7: watches of a document, of the node, and streams are bounded; leaving makes room."""
    bounds = WatchBounds(watches_per_document=2, watches=3, subscribers=5)
    async with new_watching(nats_server, tmp_path, bounds=bounds) as watching:
        await watching.sql(NOTE)
        followers = [watching.follow("SELECT 1"), watching.follow("SELECT 2")]
        with pytest.raises(Refusal) as refused:
            watching.follow("SELECT 3")
        assert refused.value.problem.status == 429
        other = new_db_id()
        followers += [watching.follow("SELECT 1", db_id=other), watching.follow("SELECT 1")]
        with pytest.raises(Refusal) as refused:
            watching.follow("SELECT 2", db_id=other)
        assert refused.value.problem.status == 503
        followers.append(watching.follow("SELECT 2"))
        with pytest.raises(Refusal, match="5 streams"):
            watching.follow("SELECT 1")

        for follower in followers:
            assert (await follower.next()).event == "snapshot"
            follower.subscription.close()
            follower.subscription.close()
        assert (await watching.follow("SELECT 3").next()).event == "snapshot"


async def test_results_are_bounded_in_all(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR7: a watch whose result does not fit any more ends, and gives its place back."""
    async with new_watching(nats_server, tmp_path, bounds=WatchBounds(result_bytes=5000)) as watching:
        await watching.sql(NOTE, "INSERT INTO note (text) VALUES ('small')")
        growing = watching.follow("SELECT text FROM note")
        await growing.next()
        await watching.sql("UPDATE note SET text = ?", args=["x" * 6000])

        with pytest.raises(Refusal, match="5000 bytes"):
            await growing.next()
        assert (await watching.follow(COUNT).next()).data["rows"] == [[1]]


async def test_a_watched_document_may_be_closed_for_idleness(nats_server: NatsServer, tmp_path: Path) -> None:
    """P0.9: closing costs its watches nothing, so they need not hold its files: they hear of the next commit."""
    async with new_watching(nats_server, tmp_path, idle_s=0.2) as watching:
        await watching.sql(NOTE)
        follower = watching.follow(COUNT)
        await follower.next()
        for number in range(1, 4):
            async with asyncio.timeout(WITHIN_S):
                while watching.partitions.find(document_partition(watching.db_id)):
                    assert (await follower.next(0.02)).event == "heartbeat"
            assert (await follower.next(0.02)).event == "heartbeat"
            await watching.sql("INSERT INTO note (text) VALUES ('a')")
            assert (await follower.next()).data["rows"] == [[number]]


async def test_an_idle_watch_is_told_that_it_lives(nats_server: NatsServer, tmp_path: Path) -> None:
    """P2.7: the signs of life of ten idle minutes, at a shorter interval, all at the same position."""
    async with new_watching(nats_server, tmp_path) as watching:
        created = await watching.sql(NOTE)
        follower = watching.follow(COUNT)
        await follower.next()
        beats = [await follower.next(0.001) for _ in range(40)]

        assert {(beat.event, beat.position) for beat in beats} == {("heartbeat", created)}
        await watching.sql("INSERT INTO note (text) VALUES ('a')")
        assert (await follower.next()).event == "update"
        assert len(watching.evaluator.evaluated) == 2


async def to_the_end(follower: Follower) -> None:
    """Follow until the watch ends; signs of life may come before."""
    while True:
        await follower.next(0.01)


async def test_the_watches_of_a_stopped_partition_end_with_the_reason(nats_server: NatsServer, tmp_path: Path) -> None:
    """P2.8: nothing will change any more until somebody has mended the log, and followers should know."""
    async with opened_log(nats_server) as event_log, opened_watching(event_log, tmp_path) as watching:
        await watching.sql(NOTE)
        follower = watching.follow(COUNT)
        await follower.next()
        partition = document_partition(watching.db_id)
        (last,) = [entry.cursor async for entry in read(event_log.reader, partition, Cursor.start(partition))]
        await append_note(event_log, partition, last)  # which no document knows
        with pytest.raises(Refusal):
            await watching.sql("INSERT INTO note (text) VALUES ('a')")

        with pytest.raises(Refusal) as ended:
            await to_the_end(follower)
        assert ended.value.problem.type == "urn:forge:problem:partition-stopped"
        with pytest.raises(Refusal) as ended:
            await watching.follow(COUNT).next()
        assert ended.value.problem.type == "urn:forge:problem:partition-stopped"
