"""One watched query, its newest result, and those who follow it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pydantic_core import to_json

from projectors.document.watches.touches import Touches
from projectors.waker import Waker
from schemas.document import Statement
from schemas.ids import Position
from schemas.problems import Problem, Refusal

Encode = Callable[[str, bytes, str], bytes]
"""`encode(event, data, position)`: what goes over the wire for one event."""

WatchKey = tuple[str, bytes, int | None]


def watch_key(statement: Statement, max_rows: int | None) -> WatchKey:
    """Return what makes two watches of a document the same."""
    args = statement.args
    return statement.sql, to_json(dict(sorted(args.items())) if isinstance(args, dict) else args), max_rows


@dataclass(slots=True)
class Shown:
    """A result, encoded once for everybody; `body` is the JSON after the position."""

    position: Position
    hash: str
    body: bytes
    _newest: tuple[str, Position, bytes] | None = None

    def encoded(self, encode: Encode, event: str, position: Position) -> bytes:
        """Return the result as an event at `position`."""
        if self._newest is None or self._newest[:2] != (event, position):
            data = b'{"position":"%b",%b' % (str(position).encode(), self.body)
            self._newest = (event, position, encode(event, data, str(position)))
        return self._newest[2]


class Watch:
    """A query of a document that somebody watches.

    `tables` are those that its newest plan reads, None if nobody can tell. A watch is `stale` from the moment
    that something it reads was touched, or its first moment, until it was evaluated again; then `covered` is the last
    position for which its result is known to hold.
    """

    __slots__ = (
        "attempts",
        "covered",
        "evaluated",
        "key",
        "quick",
        "shown",
        "stale",
        "statement",
        "subscriptions",
        "tables",
    )

    def __init__(self, key: WatchKey, statement: Statement) -> None:
        self.key = key
        self.statement = statement
        self.tables: frozenset[str] | None = None
        self.stale = True
        self.covered: Position | None = None
        self.evaluated: Position | None = None
        self.shown: Shown | None = None
        self.quick = False
        self.attempts = 0
        self.subscriptions: set[Subscription] = set()

    def wake(self) -> None:
        """Let those who wait look again."""
        for subscription in self.subscriptions:
            subscription.wake()


class Followed(Protocol):
    """What a subscription needs to know of its document."""

    touches: Touches | None
    encode: Encode

    def look(self) -> None:
        """Find out what happened without news."""

    def leave(self, subscription: "Subscription") -> None:
        """Forget a follower."""


class Subscription:
    """One follower of a watch: knows what it has been told, and is told the newest result only."""

    __slots__ = ("_document", "_last_seen", "_problem", "_since", "_told", "_told_hash", "_waker", "watch")

    def __init__(self, document: Followed, watch: Watch, last_seen: Position | None) -> None:
        self.watch = watch
        self._document = document
        self._since = document.touches.heard if document.touches else None
        self._last_seen = last_seen
        self._told: Position | None = None
        self._told_hash = ""
        self._waker = Waker()
        self._problem: Problem | None = None

    async def next(self, heartbeat_s: float) -> bytes:
        """Return the next event, encoded: news, or a heartbeat when there is none for so long.

        Empty when not even the first result is there after that time. Raise `Refusal` once the watch has ended.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + heartbeat_s
        while True:
            if self._problem:
                raise Refusal(self._problem)
            if news := self._news():
                return news
            if loop.time() >= deadline:
                self._document.look()
                if not self._problem:
                    return self._heartbeat() if self._told else b""
                continue
            await self._waker.wait(deadline, loop)

    def _news(self) -> bytes:
        shown, covered = self.watch.shown, self._covered()
        if shown is None or covered is None:
            return b""
        if self._told is not None:
            if shown.hash == self._told_hash:
                return b""
            self._told, self._told_hash = shown.position, shown.hash
            return shown.encoded(self._document.encode, "update", shown.position)
        if self._since is not None and covered < self._since:
            return b""  # whoever writes and then watches must not see what was before
        self._told, self._told_hash = covered, shown.hash
        if self._unchanged(covered):
            return self._heartbeat()
        return shown.encoded(self._document.encode, "snapshot", covered)

    def _unchanged(self, covered: Position) -> bool:
        """Whether the result is the one that the client had when it was here before."""
        seen, touches = self._last_seen, self._document.touches
        if seen is None or touches is None or seen > covered:
            return False
        return seen == covered or not touches.changed(self.watch.tables, seen)

    def _heartbeat(self) -> bytes:
        assert self._told is not None
        position = max(self._told, self._covered() or self._told)
        return self._document.encode("heartbeat", to_json({"position": str(position)}), str(position))

    def _covered(self) -> Position | None:
        """Return up to which position the watch's result is known to hold."""
        watch, touches = self.watch, self._document.touches
        if watch.stale or touches is None or watch.evaluated is None:
            return watch.covered
        return max(watch.evaluated, touches.heard)

    def wake(self) -> None:
        """Look again whether there is news."""
        self._waker.wake()

    def end(self, problem: Problem) -> None:
        """Tell the follower that nothing more comes, and why."""
        self._problem = problem
        self.wake()

    def close(self) -> None:
        """Stop following; may be called again."""
        self._waker.close()
        self._document.leave(self)
