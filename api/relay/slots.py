"""Calls that were taken without saying where the answer will come from: the next answer to the same name is theirs."""

import asyncio
from collections import OrderedDict

from api.relay.call import Call
from api.relay.channel import Key

FORGET_S = 60.0
"""So long it is remembered that a requester left, so that an answer to him is not given to somebody else."""
SLOTS_MAX = 4096
"""So many of one name; of more, the oldest is forgotten."""
LEFT_MAX = 16_384
"""So many whose requester has left, of all names together; of more, the one that left first is forgotten."""


class Slots:
    """The calls of each name that wait for an answer, or whose requester has left not long ago."""

    def __init__(self) -> None:
        self._calls: dict[Key, OrderedDict[Call, None]] = {}
        self._left: OrderedDict[Call, tuple[Key, asyncio.TimerHandle]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(calls) for calls in self._calls.values())

    def open(self, key: Key, call: Call) -> None:
        """From now on an answer to `key` is one to this call."""
        calls = self._calls.setdefault(key, OrderedDict())
        calls[call] = None
        if len(calls) > SLOTS_MAX:
            self._forget(key, next(iter(calls)))
        if call.waits:
            call.ended = lambda: self._leave(key, call)
        else:
            self._leave(key, call)

    def take(self, key: Key) -> Call | None:
        """Return the call that an answer to `key` is for, if there is one; it may have ended."""
        calls = self._calls.get(key)
        if not calls:
            return None
        call = next(iter(calls))
        self._forget(key, call)
        call.ended = None
        return call

    def close(self) -> None:
        """Forget all of them."""
        for _, timer in self._left.values():
            timer.cancel()
        self._left.clear()
        self._calls.clear()

    def _leave(self, key: Key, call: Call) -> None:
        if call in self._left or call not in self._calls.get(key, ()):
            return  # it was told before, or so many have come since that it is forgotten
        timer = asyncio.get_running_loop().call_later(FORGET_S, self._forget, key, call)
        self._left[call] = (key, timer)
        if len(self._left) > LEFT_MAX:
            oldest = next(iter(self._left))
            self._forget(self._left[oldest][0], oldest)

    def _forget(self, key: Key, call: Call) -> None:
        if left := self._left.pop(call, None):
            left[1].cancel()
        calls = self._calls.get(key)
        if calls is not None:
            calls.pop(call, None)
            if not calls:
                del self._calls[key]
