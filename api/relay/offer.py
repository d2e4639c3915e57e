"""A message on offer: who sent it, whether somebody has taken it, and how it ended."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from api.relay import metrics
from api.relay.body import Body, Reader
from api.relay.channel import Channels, Key
from api.relay.headers import Metadata
from schemas.problems import RELAY_BROKEN, REQUESTER_GONE, WAIT_OVER, Problem

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Message:
    """What is relayed."""

    metadata: Metadata
    body: Body


class Sent:
    """What all that is sent has in common: a body that goes on when somebody takes it."""

    __slots__ = ("begun", "message", "number")

    def __init__(self, message: Message) -> None:
        self.number = next(_numbers)
        self.message = message
        self.begun = asyncio.Event()

    def taken(self) -> None:
        """Somebody has it now, so its body may go on."""
        self.begun.set()

    def reader(self) -> Reader:
        """Return what gives its receiver the body."""
        return self.message.body.reader()

    async def feed(self, source: AsyncIterator[bytes]) -> None:
        """Read the rest of the body for whoever takes it."""
        await self.begun.wait()
        await self.message.body.fill(source)


class Offer(Sent):
    """A message for exactly one receiver; `ended` is done with None once that one had all of it, else with a problem.

    It goes back to the head of its channel when a receiver fails, as long as it can be read again. One that answers a
    request is for that requester alone.
    """

    __slots__ = ("_channels", "_key", "_left", "answers", "ended", "kind", "unclaimed")

    def __init__(self, message: Message, channels: "Channels[Delivered]", key: Key) -> None:
        super().__init__(message)
        self.ended: asyncio.Future[Problem | None] = asyncio.get_running_loop().create_future()
        self.answers = False
        self.kind = metrics.QUEUE
        self.unclaimed: Callable[[], object] | None = None  # who to tell if its sender leaves before it answers
        self._channels = channels
        self._key = key
        self._left = False

    @property
    def left(self) -> bool:
        """Whether its sender has gone."""
        return self._left

    def answer(self) -> None:
        """From now on it is the answer to one request."""
        self.answers = True
        self.kind = metrics.REQUEST

    def wait_at_most(self, wait_s: float) -> asyncio.TimerHandle:
        """Withdraw it (408) if nobody takes it in time."""
        return asyncio.get_running_loop().call_later(wait_s, self._time_is_up, wait_s)

    def settle(self, complete: bool) -> None:
        """Whoever took it had all of it, or not."""
        if self.ended.done():
            return
        if complete:
            self._end(None)
        elif self.answers:
            self._end(REQUESTER_GONE.problem("whoever asked has left before the answer was delivered"))
        elif self._left or not self.message.body.rereadable:
            self._end(RELAY_BROKEN.problem("the receiver broke off before it had all of the message"))
        else:
            metrics.RETURNED.inc()
            self._channels.put_back(self._key, self)

    def refuse(self, problem: Problem) -> None:
        """It will not be delivered."""
        if not self.ended.done():
            self._end(problem)

    def put_back(self) -> None:
        """Offer it where it was, before all others."""
        if not (self._left or self.ended.done()):
            self._channels.put_back(self._key, self)

    def leave(self) -> None:
        """Its sender has gone: what nobody has taken is withdrawn, what has arrived whole is still delivered."""
        if self.ended.done() or self._left:
            return
        self._left = True
        if self._withdrawn() or not self.begun.is_set() or not self.message.body.complete:
            self._end(RELAY_BROKEN.problem("the sender left"))

    def _time_is_up(self, wait_s: float) -> None:
        if not self.ended.done() and self._withdrawn():
            self._end(WAIT_OVER.problem(f"nobody took the message within {wait_s:g} s"))

    def _withdrawn(self) -> bool:
        """Take it back from wherever it waits; say whether it did."""
        unclaimed, self.unclaimed = self.unclaimed, None
        if unclaimed is not None:
            unclaimed()
            return True
        return self._channels.withdraw(self._key, self)

    def _end(self, problem: Problem | None) -> None:
        self.ended.set_result(problem)
        self.message.body.close()
        metrics.delivered(self.kind, problem)


class Copy:
    """One receiver's copy of a message for all who listen. It is never offered again."""

    __slots__ = ("_ended", "_reader", "complete", "message", "number")

    def __init__(self, message: Message, ended: Callable[["Copy"], None]) -> None:
        self.number = next(_numbers)
        self.message = message
        self.complete: bool | None = None  # until it is settled
        self._reader = message.body.reader()  # at once: from now on nothing is dropped that this one has not had
        self._ended = ended

    def taken(self) -> None:
        """Somebody has it now."""

    def reader(self) -> Reader:
        """Return what gives its receiver the body."""
        return self._reader

    def settle(self, complete: bool) -> None:
        """Its receiver had all of it, or not."""
        if self.complete is None:
            self.complete = complete
            self._reader.cut()
            self._ended(self)

    def refuse(self, problem: Problem) -> None:
        """It will not be delivered."""
        self.settle(False)


Delivered = Offer | Copy
