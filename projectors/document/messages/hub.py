"""The live end of one document's messages: the newest ones in memory, and everybody who follows."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from projectors.document.messages import queries
from projectors.document.messages.filter_tree import FilterTree
from projectors.document.messages.group import Group
from projectors.document.messages.message import Message
from projectors.document.messages.queries import Tail, Window
from projectors.document.messages.ring import Ring
from projectors.document.messages.subscription import Subscription
from projectors.document.reads.reader import Reader
from projectors.document.reads.reading import DocumentReaders
from schemas.document import DocumentFact
from schemas.messages import MessagesPruned, MessagesPublished
from schemas.problems import Problem, Refusal

READS_AT_ONCE = 2  # of one document's subscribers that are behind; the others wait for their turn
_TOLD = (MessagesPublished, MessagesPruned)

T = TypeVar("T")


class Hub:
    """What subscribers of one document share. Everything here runs on the event loop, reads excepted."""

    def __init__(
        self,
        db_id: str,
        readers: DocumentReaders,
        ring: Ring,
        *,
        look: Callable[["Hub"], None],
        left: Callable[["Hub"], None],
    ) -> None:
        """`look` finds out what happened without news; `left` is called for each subscriber who leaves."""
        self.db_id = db_id
        self._look = look
        self._left = left
        self.ring = ring
        self.subscribers = 0
        self.counted_bytes = 0  # what the node counts for the ring
        self._readers = readers
        self._groups: dict[tuple[str, ...], Group] = {}
        self._tree: FilterTree[Group] = FilterTree()
        self._everything: dict[Group, None] = {}  # groups without filters
        self._turns = asyncio.Semaphore(READS_AT_ONCE)
        self._first = asyncio.Lock()
        self._settling: asyncio.Task[None] | None = None

    def join(self, filters: Sequence[str]) -> Group:
        """Return the group of those with these filters."""
        key = tuple(sorted(set(filters)))
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key, self.ring.end)
            for pattern in key:
                self._tree.add(pattern, group)
            if not key:
                self._everything[group] = None
        return group

    def add(self, subscription: Subscription) -> None:
        """Let somebody follow who has joined a group."""
        subscription.group.subscriptions[subscription] = None
        self.subscribers += 1

    def look(self) -> None:
        """Find out what happened without news."""
        self._look(self)

    def leave(self, subscription: Subscription) -> None:
        """Forget a subscriber, if it still is one."""
        group = subscription.group
        if subscription not in group.subscriptions:
            return
        del group.subscriptions[subscription]
        self.subscribers -= 1
        if not group.subscriptions:
            del self._groups[group.filters]
            for pattern in group.filters:
                self._tree.remove(pattern, group)
            self._everything.pop(group, None)
        self._left(self)

    def heard(self, facts: Sequence[object]) -> None:
        """Take the news of one commit. Without facts, or with those of a copy, nobody knows what has come."""
        published = [fact for fact in facts if isinstance(fact, MessagesPublished)]
        if published:
            self._take([message for fact in published for message in _messages(self.db_id, fact)])
        if not facts or any(_may_publish(fact) for fact in facts):
            self.settle()

    def _take(self, messages: Sequence[Message]) -> None:
        began = self.ring.began
        messages = self.ring.add(messages)
        if self.ring.began != began or began is None:
            self._begin_anew()
        told: dict[Group, list[int]] = {}
        for message in messages:
            for group in (*self._tree.find(message.topic), *self._everything):
                told.setdefault(group, []).append(message.id)
        for group, ids in told.items():
            group.told(ids[0], ids[-1])
            for subscription in group.subscriptions:
                subscription.wake()

    def _begin_anew(self) -> None:
        for group in self._groups.values():
            group.begin(self.ring.base)
            for subscription in group.subscriptions:
                subscription.wake()

    def settle(self) -> None:
        """Ask the document whether something has come that nobody told."""
        if self._settling is None:
            self._settling = asyncio.create_task(self._settle(), name=f"newest message of {self.db_id}")
            self._settling.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._settling = None
        if not task.cancelled():
            task.exception()

    async def _settle(self) -> None:
        try:
            self._know(await self._read(queries.newest))
        except Refusal:  # whoever has to read next hears why
            self.ring.forget()
            self._begin_anew()

    def _know(self, newest: int) -> None:
        """Take the id of the newest message of the document for granted; what has come unnoticed is to be read."""
        if self.ring.end is None or newest > self.ring.end:
            self.ring.begin(newest)
            self._begin_anew()

    async def newest(self) -> int:
        """Return the id of the newest message."""
        if self.ring.end is None:
            async with self._first:
                if self.ring.end is None:
                    self._know(await self._read(queries.newest))
        assert self.ring.end is not None
        return self.ring.end

    async def window(self, after: int, filters: tuple[str, ...]) -> Window:
        """Read on after an id."""
        read = await self._read(partial(queries.window, db_id=self.db_id, after=after, filters=filters))
        if self.ring.end is None:
            self._know(read.newest)
        return read

    async def tail(self, before: int, missing: int, filters: tuple[str, ...]) -> Tail:
        """Look further back for the last messages."""
        return await self._read(partial(queries.tail, before=before, missing=missing, filters=filters))

    async def _read(self, work: Callable[[Reader], T]) -> T:
        async with self._turns:
            found, _ = await self._readers.run(self.db_id, work)
            return found

    def end(self, problem: Problem) -> None:
        """Tell every subscriber that no more comes, and why."""
        for group in self._groups.values():
            for subscription in group.subscriptions:
                subscription.end(problem)

    def close(self) -> None:
        """Nobody follows any more."""
        if self._settling is not None:
            self._settling.cancel()


def _may_publish(fact: object) -> bool:
    """Say whether messages may have come with a fact that does not name them."""
    return isinstance(fact, DocumentFact) and "messages" in fact.touched and not isinstance(fact, _TOLD)


def _messages(db_id: str, fact: MessagesPublished) -> list[Message]:
    return [
        Message(db_id, fact.first_id + at, one.topic, one.payload, one.content_type, one.producer, fact.at)
        for at, one in enumerate(fact.messages)
    ]
