"""Where those who offer something meet those who wait for it: first come, first served, on both sides."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Generic, NamedTuple, Protocol, TypeVar

from schemas.problems import UNAVAILABLE, WAIT_OVER, Problem, Refusal

WAITING_MAX = 10_000
"""So many may wait on one side of one channel."""
RETRY_AFTER_S = 5


class Key(NamedTuple):
    """A channel of one document, or of one of the spaces that belong to none."""

    db_id: str
    name: str


class Offered(Protocol):
    """What is handed over; the number says which was offered first."""

    number: int

    def taken(self) -> None:
        """Somebody has it now."""

    def settle(self, complete: bool) -> None:
        """Whoever took it had all of it, or not."""

    def refuse(self, problem: Problem) -> None:
        """It will not be delivered."""


T = TypeVar("T", bound=Offered)


@dataclass(slots=True)
class _Channel(Generic[T]):
    """Who waits; never on both sides."""

    offers: OrderedDict[T, None] = field(default_factory=OrderedDict)
    takers: OrderedDict["asyncio.Future[T]", None] = field(default_factory=OrderedDict)


class Channels(Generic[T]):
    """All channels where somebody waits. A channel that nobody waits at is forgotten."""

    def __init__(self) -> None:
        self._channels: dict[Key, _Channel[T]] = {}
        self._stopped: Problem | None = None
        self.offers_waiting = 0
        self.takers_waiting = 0

    def __len__(self) -> int:
        return len(self._channels)

    def offer(self, key: Key, item: T) -> None:
        """Hand `item` to whoever waits longest, or keep it until somebody comes; `Refusal` (503) if too many wait."""
        if self._stopped is not None:
            raise Refusal(self._stopped)
        if not self._handed_over(key, item):
            self._keep(key, item, again=False)

    def put_back(self, key: Key, item: T) -> None:
        """Offer again what was taken in vain, before all that were offered later."""
        if self._stopped is not None:
            item.refuse(self._stopped)
        elif not self._handed_over(key, item):
            self._keep(key, item, again=True)

    def withdraw(self, key: Key, item: T) -> bool:
        """Take an offer back; say whether it still waited."""
        channel = self._channels.get(key)
        if channel is None or item not in channel.offers:
            return False
        del channel.offers[item]
        self.offers_waiting -= 1
        self._forget_if_empty(key, channel)
        return True

    def oldest(self, key: Key) -> T | None:
        """Return what waits longest, and leave it there."""
        channel = self._channels.get(key)
        return next(iter(channel.offers), None) if channel is not None else None

    async def take(self, key: Key, wait_s: float | None = None) -> T:
        """Return the oldest offer as soon as there is one; `Refusal`: 408 after `wait_s`, 503 if too many wait.

        Whoever is cancelled takes nothing away.
        """
        if self._stopped is not None:
            raise Refusal(self._stopped)
        if (item := self.oldest(key)) is not None:
            self.withdraw(key, item)
            item.taken()
            return item
        return await self._wait(key, wait_s)

    def take_turns(self, key: Key) -> list["asyncio.Future[T]"]:
        """Return all who wait, who must be given something now, and wait no longer."""
        channel = self._channels.get(key)
        if channel is None or not channel.takers:
            return []
        turns = [taker for taker in channel.takers if not taker.done()]
        self.takers_waiting -= len(channel.takers)
        channel.takers.clear()
        self._forget_if_empty(key, channel)
        return turns

    def stop(self, problem: Problem) -> None:
        """Refuse all who wait, and who come later."""
        self._stopped = problem
        channels, self._channels = self._channels, {}
        self.offers_waiting = self.takers_waiting = 0
        for channel in channels.values():
            for taker in channel.takers:
                if not taker.done():
                    taker.set_exception(Refusal(problem))
            for item in channel.offers:
                item.refuse(problem)

    async def _wait(self, key: Key, wait_s: float | None) -> T:
        loop = asyncio.get_running_loop()
        channel = self._channels.setdefault(key, _Channel())
        _refuse_crowd(len(channel.takers))
        taker: asyncio.Future[T] = loop.create_future()
        channel.takers[taker] = None
        self.takers_waiting += 1
        timer = loop.call_later(wait_s, _time_is_up, taker, wait_s) if wait_s is not None else None
        try:
            return await taker
        except asyncio.CancelledError:
            if not taker.cancelled() and taker.exception() is None:
                taker.result().settle(False)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if taker in channel.takers:
                del channel.takers[taker]
                if self._stopped is None:
                    self.takers_waiting -= 1
                self._forget_if_empty(key, channel)

    def _handed_over(self, key: Key, item: T) -> bool:
        channel = self._channels.get(key)
        while channel is not None and channel.takers:
            taker, _ = channel.takers.popitem(last=False)
            self.takers_waiting -= 1
            if not taker.done():
                item.taken()
                taker.set_result(item)
                self._forget_if_empty(key, channel)
                return True
        return False

    def _keep(self, key: Key, item: T, *, again: bool) -> None:
        channel = self._channels.setdefault(key, _Channel())
        offers = channel.offers
        if again:
            first = list(takewhile(lambda one: one.number < item.number, offers))  # older ones that came back before
            for one in (item, *reversed(first)):
                offers[one] = None
                offers.move_to_end(one, last=False)
        else:
            _refuse_crowd(len(offers))
            offers[item] = None
        self.offers_waiting += 1

    def _forget_if_empty(self, key: Key, channel: _Channel[T]) -> None:
        if not (channel.offers or channel.takers) and self._channels.get(key) is channel:
            del self._channels[key]


def _refuse_crowd(waiting: int) -> None:
    if waiting >= WAITING_MAX:
        raise Refusal(UNAVAILABLE.problem(f"{waiting} wait at this channel already", retry_after_s=RETRY_AFTER_S))


def _time_is_up(taker: "asyncio.Future[T]", wait_s: float) -> None:
    if not taker.done():
        taker.set_exception(Refusal(WAIT_OVER.problem(f"nothing came within {wait_s:g} s")))
