"""Those who subscribe to the same filters of a document: what is found and joined for one is there for all."""

from collections.abc import Sequence
from typing import Protocol

from projectors.document.messages.message import Encode, Message
from projectors.document.messages.ring import Ring
from schemas.problems import Problem
from schemas.topics import matches_any

BATCH_MESSAGES = 256
BATCH_BYTES = 256 << 10  # of payload; one message more is always taken
KNOWN_TOPICS = 1024
MADE_MAX = 64


class Batch:
    """Messages that follow each other for a subscriber, who has seen everything up to `upto` then."""

    __slots__ = ("_made", "messages", "upto")

    def __init__(self, messages: Sequence[Message], upto: int) -> None:
        self.messages = messages
        self.upto = upto
        self._made: tuple[Encode, bytes] | None = None

    def encoded(self, encode: Encode) -> bytes:
        """Return the messages encoded, one after the other; the same bytes for everybody."""
        if self._made is None or self._made[0] is not encode:
            self._made = encode, b"".join([message.encoded(encode) for message in self.messages])
        return self._made[1]


class Follower(Protocol):
    """One of those who subscribe."""

    def wake(self) -> None:
        """Look again whether there is something."""

    def end(self, problem: Problem) -> None:
        """Nothing more comes, and why."""


class Group:
    """Subscribers with the same filters.

    It knows since `knows_from` which messages its filters pick: none between two that it was told of. So whoever has
    seen everything up to there need not look through what came since.
    """

    __slots__ = ("_calm", "_known", "_last", "_made", "filters", "knows_from", "subscriptions")

    def __init__(self, filters: tuple[str, ...], knows_from: int | None) -> None:
        self.filters = filters
        self.subscriptions: dict[Follower, None] = {}
        self._known: dict[str, bool] = {}
        self._made: dict[int, Batch] = {}
        self.begin(knows_from)

    def begin(self, knows_from: int | None) -> None:
        """Know nothing of what was before `knows_from`; None: nor of what was after."""
        self.knows_from = knows_from
        self._last = knows_from or 0
        self._calm = (0, 0)
        self._made.clear()

    def told(self, first: int, last: int) -> None:
        """Of the newest messages the filters pick one with the id `first`, and no other up to one with `last`."""
        self._calm = self._last, first - 1
        self._last = last
        self._made.clear()

    def passed(self, seen: int, end: int) -> int:
        """Return up to where somebody has seen everything who has so up to `seen`, while the newest is `end`."""
        if self.knows_from is None or seen < self.knows_from:
            return seen
        if seen >= self._last:
            return max(seen, end)
        since, until = self._calm
        return until if since <= seen < until else seen

    def batch(self, ring: Ring, seen: int) -> Batch:
        """Return what comes after `seen`, which is not older than the ring; perhaps nothing of it is picked."""
        made = self._made.get(seen)
        if made is None:
            made = self._make(ring, seen)
            if len(self._made) >= MADE_MAX:
                self._made.clear()
            self._made[seen] = made
        return made

    def _make(self, ring: Ring, seen: int) -> Batch:
        messages, size, upto = list[Message](), 0, ring.end or seen
        for message in ring.after(seen):
            if self.wants(message.topic):
                messages.append(message)
                size += len(message.payload)
                if size >= BATCH_BYTES or len(messages) == BATCH_MESSAGES:
                    upto = message.id
                    break
        return Batch(messages, upto)

    def wants(self, topic: str) -> bool:
        """Say whether the filters pick a topic."""
        known = self._known.get(topic)
        if known is None:
            if len(self._known) >= KNOWN_TOPICS:
                self._known.clear()
            known = self._known[topic] = matches_any(self.filters, topic)
        return known
