"""Everything that the relay of one node keeps: who waits where, and how much of what they send is in memory."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from api.relay import metrics
from api.relay.budget import Budget
from api.relay.call import Call
from api.relay.channel import Channels
from api.relay.offer import Delivered
from api.relay.slots import Slots
from api.relay.switch import Switch
from api.relay.visitors import Visitors
from api.routes import Request
from schemas.problems import UNAVAILABLE

STOPPING_RETRY_AFTER_S = 5
STOPPING = UNAVAILABLE.problem("the node is stopping", retry_after_s=STOPPING_RETRY_AFTER_S)

Tee: TypeAlias = Callable[[Request[Any], str, bytes, str], Awaitable[int]]
"""Stores a body as a message of a topic, with its content type, and returns its id."""


class Relay:
    """The state of the relay, all of it in memory, and its bounds."""

    def __init__(self, *, bytes_max: int, answer_s: float, automatic: bool = True, tee: Tee | None = None) -> None:
        """`answer_s` is how long a request that was taken waits for its answer.

        With `automatic` headers, what a sender's client says of itself is relayed. `tee` stores what passes.
        """
        self.budget = Budget(bytes_max)
        self.offers: Channels[Delivered] = Channels()
        self.calls: Channels[Call] = Channels()
        self.slots = Slots()
        self.switch = Switch(self.offers)
        self.asked: set[Call] = set()
        self.visitors = Visitors()
        self.answer_s = answer_s
        self.automatic = automatic
        self.tee = tee
        self._stopping: asyncio.Task[None] | None = None
        metrics.gauges(
            senders=lambda: self.offers.offers_waiting + self.calls.offers_waiting,
            receivers=lambda: self.offers.takers_waiting + self.calls.takers_waiting,
            channels=lambda: len(self.offers) + len(self.calls),
            calls=lambda: len(self.asked),
            buffered=lambda: self.budget.used_bytes,
        )

    def heed(self, stopping: asyncio.Event) -> None:
        """Refuse all who wait as soon as the server stops: nobody is held until he is cut off."""
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop_when(stopping))

    def close(self) -> None:
        """Refuse whoever still waits, and forget everything."""
        if self._stopping is not None:
            self._stopping.cancel()
        self._stop()
        self.slots.close()

    async def _stop_when(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._stop()

    def _stop(self) -> None:
        self.offers.stop(STOPPING)
        self.calls.stop(STOPPING)
        for call in list(self.asked):
            call.refuse(STOPPING)
