"""The seam between messages that are read and messages that come, under any interleaving; and who wants a topic."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projectors.document.messages import queries
from projectors.document.messages.filter_tree import FilterTree
from projectors.document.messages.group import Batch
from projectors.document.messages.hub import Hub
from projectors.document.messages.message import Message
from projectors.document.messages.ring import Ring
from projectors.document.messages.subscription import Lagged, Subscription
from projectors.document.reads.reader import Reader
from projectors.document.reads.reading import DocumentReaders
from schemas.messages import MessagesPublished, PublishedMessage
from schemas.topics import matches, matches_any

TOPICS = ("a", "a/b", "a/c", "b", "b/x/y", "$sys/a", "/", "a/")
FILTERS = ("a", "a/b", "a/#", "+/b", "#", "+", "b/+/y", "$sys/#", "+/+", "/", "a/", "c")
NOW = "2026-01-01T00:00:00.000000Z"


@dataclass
class Table:
    """A document as far as messages read it; reads wait until somebody lets them through."""

    db: apsw.Connection = field(default_factory=lambda: apsw.Connection(":memory:"))
    newest: int = 0
    waiting: list[asyncio.Future[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.db.execute("CREATE TABLE _forge_document (system_version, last_message_id)")
        self.db.execute("INSERT INTO _forge_document VALUES (1, 0)")
        self.db.execute(
            "CREATE TABLE messages (id INTEGER PRIMARY KEY, topic, payload, content_type, producer, created_at)"
        )

    @property
    def reader(self) -> Reader:
        """Itself: queries need no more of a reader than its connection."""
        return cast(Reader, self)

    def publish(self, topics: Sequence[str]) -> MessagesPublished:
        """Store messages; return what the followers will be told."""
        first = self.newest + 1
        for topic in topics:
            self.newest += 1
            row = (self.newest, topic, f"{self.newest}", "text/plain", None, NOW)
            self.db.execute("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", row)
        self.db.execute("UPDATE _forge_document SET last_message_id = ?", (self.newest,))
        told = [PublishedMessage(topic=one, payload=b"x", content_type="text/plain") for one in topics]
        return MessagesPublished(first_id=first, at=NOW, messages=tuple(told))

    def prune(self, through: int) -> None:
        """Remove the oldest."""
        self.db.execute("DELETE FROM messages WHERE id <= ?", (through,))

    async def run(self, db_id: str, work: Callable[[Any], Any]) -> tuple[Any, None]:
        """Do what `DocumentReaders.run` does: the answer comes some time after the state that it is of."""
        await self._turn()
        found = work(self)
        await self._turn()
        return found, None

    async def _turn(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self.waiting.append(waiter)
        await waiter

    def let_through(self, which: int) -> None:
        """Let one read go on."""
        self.waiting = [one for one in self.waiting if not one.done()]
        if self.waiting:
            self.waiting.pop(which % len(self.waiting)).set_result(None)

    def picked(self, filters: Sequence[str], after: int) -> list[int]:
        """Return the ids after one that filters pick."""
        rows = self.db.execute("SELECT id, topic FROM messages WHERE id > ? ORDER BY id", (after,))
        return [int(str(id_)) for id_, topic in rows if matches_any(filters, str(topic))]


def new_hub(table: Table, ring_messages: int = 2) -> Hub:
    """Return the live end of a document."""
    readers = cast(DocumentReaders, table)  # a hub needs no more of them than `run`
    return Hub("doc", readers, Ring(ring_messages), look=lambda _: None, left=lambda _: None)


@dataclass
class Follower:
    """A subscriber, and what it has been told."""

    subscription: Subscription
    filters: tuple[str, ...]
    after: int | None
    seen: list[int] = field(default_factory=list)
    lagged: list[Lagged] = field(default_factory=list)
    task: Any = None

    async def run(self) -> None:
        """Follow for ever."""
        await self.subscription.begin()
        if self.after is None:
            self.after = self.subscription.seen
        while True:
            match await self.subscription.next(3600):
                case Batch() as batch:
                    self.seen += [message.id for message in batch.messages]
                case Lagged() as lagged:
                    self.lagged.append(lagged)
            await asyncio.sleep(0)


actions = st.one_of(
    st.tuples(st.just("publish"), st.lists(st.sampled_from(TOPICS), min_size=1, max_size=6)),
    st.tuples(st.just("tell"), st.just(0)),
    st.tuples(st.just("read"), st.integers(0, 9)),
    st.tuples(st.just("tick"), st.integers(1, 5)),
    st.tuples(
        st.just("join"), st.tuples(st.lists(st.sampled_from(FILTERS), max_size=3), st.none() | st.integers(0, 20))
    ),
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.just("unsure"), st.just(0)),
)


@given(st.lists(actions, max_size=60), st.integers(1, 8))
def test_whatever_happens_in_whatever_order_each_message_is_told_once_and_in_order(steps: Any, ring: int) -> None:
    """P3.7: publishes, news that is late, reads that are slow, a ring that forgets, and followers that come and go."""
    asyncio.run(_check(steps, ring))


class World:
    """A document, those who follow it, and everything that can happen to them."""

    def __init__(self, ring_messages: int) -> None:
        self.table = Table()
        self.hub = new_hub(self.table, ring_messages)
        self.untold: list[MessagesPublished] = []
        self.followers: list[Follower] = []
        self.everybody: list[Follower] = []

    async def step(self, action: str, value: Any) -> None:
        """Do one thing."""
        match action:
            case "publish":
                self.untold.append(self.table.publish(value))
            case "tell" if self.untold:
                self.hub.heard([self.untold.pop(0)])
            case "read":
                self.table.let_through(value)
            case "tick":
                for _ in range(value):
                    await asyncio.sleep(0)
            case "join":
                self.join(*value)
            case "leave" if self.followers:
                gone = self.followers.pop(value % len(self.followers))
                gone.task.cancel()
                gone.subscription.close()
            case "unsure":
                self.hub.heard([])

    def join(self, filters: Sequence[str], since: int | None) -> None:
        """Let somebody follow."""
        since = None if since is None else min(since, self.table.newest)
        subscription = Subscription(self.hub, self.hub.join(filters), since=since, tail=0)
        self.hub.add(subscription)
        follower = Follower(subscription, tuple(filters), since)
        follower.task = asyncio.create_task(follower.run())
        self.followers.append(follower)
        self.everybody.append(follower)

    async def settled(self) -> None:
        """Let everything be told and read."""
        while self.untold:
            self.hub.heard([self.untold.pop(0)])
        for _ in range(60 + 10 * len(self.followers) + self.table.newest):
            await asyncio.sleep(0)
            self.table.let_through(0)

    def check(self) -> None:
        """Fail unless everybody has been told what it must."""
        for one in self.everybody:
            if one.after is None:
                continue  # it left before it had begun
            expected = self.table.picked(one.filters, one.after)
            assert one.seen == (expected if one in self.followers else expected[: len(one.seen)])
            assert all(lagged.reason == "slow" for lagged in one.lagged)

    async def close(self) -> None:
        """End it."""
        for one in self.everybody:
            one.task.cancel()
        await asyncio.gather(*(one.task for one in self.everybody), return_exceptions=True)
        self.hub.close()


async def _check(steps: Any, ring_messages: int) -> None:
    world = World(ring_messages)
    for action, value in steps:
        await world.step(action, value)
    await world.settled()
    world.check()
    await world.close()


@given(st.lists(st.sampled_from(FILTERS), unique=True), st.sampled_from(TOPICS), st.data())
def test_the_tree_of_filters_finds_whoever_a_match_finds(patterns: list[str], topic: str, data: st.DataObject) -> None:
    """P3.8."""
    tree: FilterTree[str] = FilterTree()
    for pattern in patterns:
        tree.add(pattern, pattern)
    gone = data.draw(st.lists(st.sampled_from(patterns), unique=True)) if patterns else []
    for pattern in gone:
        tree.remove(pattern, pattern)

    assert tree.find(topic) == {one for one in patterns if one not in gone and matches(one, topic)}


def test_an_empty_tree_keeps_nothing() -> None:
    """PR7."""
    tree: FilterTree[int] = FilterTree()
    for pattern in FILTERS:
        tree.add(pattern, 1)
    for pattern in FILTERS:
        tree.remove(pattern, 1)

    assert tree._root.empty


@given(
    st.lists(st.sampled_from(TOPICS), max_size=40), st.lists(st.sampled_from(FILTERS), max_size=3), st.integers(1, 9)
)
def test_a_tail_begins_before_the_last_messages_that_match(topics: list[str], filters: list[str], count: int) -> None:
    """P3.7, G-18: it counts what matches; if there are fewer it is all of them."""
    table = Table()
    table.publish(topics)
    before, missing = table.newest + 1, count
    while missing:
        before, missing = (found := queries.tail(table.reader, before, missing, filters)).after + 1, found.missing

    read = queries.window(table.reader, "doc", before - 1, filters)
    matching = [at for at, topic in enumerate(topics, start=1) if matches_any(filters, topic)]
    assert [message.id for message in read.messages] == matching[-count:]


@pytest.mark.parametrize(("after", "told"), [(0, Lagged(0, 6, "pruned")), (3, Lagged(3, 6, "pruned")), (5, None)])
async def test_who_missed_what_was_pruned_is_told_which_ids_are_gone(after: int, told: Lagged | None) -> None:
    table = Table()
    table.publish(["a"] * 8)
    table.prune(5)
    hub = new_hub(table)
    seen = await _first(table, hub, after)

    assert next((one for one in seen if isinstance(one, Lagged)), None) == told
    assert [one for one in seen if isinstance(one, int)] == [6, 7, 8]


async def test_who_has_seen_more_than_there_ever_was_is_told() -> None:
    """A document that was brought back from an older copy counts on from there."""
    table = Table()
    table.publish(["a"] * 3)
    hub = new_hub(table)

    assert await _first(table, hub, 7) == [Lagged(7, 4, "ahead")]


async def _first(table: Table, hub: Hub, after: int) -> list[Any]:
    subscription = Subscription(hub, hub.join(["a"]), since=after, tail=0)
    hub.add(subscription)
    follower = Follower(subscription, ("a",), after)
    task = asyncio.create_task(follower.run())
    for _ in range(50):
        await asyncio.sleep(0)
        table.let_through(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    subscription.close()
    return [*follower.lagged, *follower.seen]


async def test_who_was_too_slow_for_memory_is_told_and_misses_nothing() -> None:
    """P3.7, PR7: what fell out of the ring is read from the document."""
    table = Table()
    hub = new_hub(table, ring_messages=3)
    follower = Follower(subscription := Subscription(hub, hub.join([]), since=0, tail=0), (), 0)
    hub.add(subscription)
    task = asyncio.create_task(follower.run())
    for _ in range(10):
        await asyncio.sleep(0)
        table.let_through(0)
    for _ in range(8):  # without a turn for anybody else
        hub.heard([table.publish(["a"])])
    for _ in range(50):
        await asyncio.sleep(0)
        table.let_through(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert follower.lagged == [Lagged(0, 1, "slow")]
    assert follower.seen == list(range(1, 9))


def test_a_ring_keeps_its_bounds_and_what_is_left_has_no_gap() -> None:
    """PR7."""
    ring = Ring(count_max=100, bytes_max=10_000)
    for id_ in range(1, 50):
        ring.add([Message("doc", id_, "a", b"x" * (id_ * 10), "text/plain", None, NOW)])
        assert ring.size <= 10_000
        assert ring.end == id_
        assert ring.base is not None
        assert [one.id for one in ring.after(ring.base)] == list(range(ring.base + 1, id_ + 1))
    ring.shrink(0)
    assert (ring.base, ring.end, ring.size) == (49, 49, 0)


def test_last_values_are_read_part_by_part_also_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """P3.9, PR7."""
    monkeypatch.setattr(queries, "WINDOW_IDS", 2)
    table = Table()
    columns = "topic PRIMARY KEY, id, payload, content_type, producer, created_at"
    table.db.execute(f"CREATE TABLE retained_messages ({columns})")
    for id_, topic in enumerate("abcdefg", start=1):
        table.db.execute(f"INSERT INTO retained_messages VALUES ('{topic}', {id_}, 'x', 'text/plain', NULL, '{NOW}')")
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        part, after = queries.retained(table.reader, "doc", after, ["a", "g"], 100)
        found += [message.topic for message in part]
    assert found == ["a", "g"]
