"""Calls that were taken without saying where the answer will come from: the next answer to the same name is theirs."""

import asyncio
from collections import OrderedDict

from api.relay.call import Call
from api.relay.channel import Key

FORGET_S = 60.0
"""So long it is remembered that a requester left, so that an answer to him is not given to somebody else."""
SLOTS_MAX = 4096
"""So many of one name; of more, the oldest is forgotten."""


class Slots:
    """The calls of each name that wait for an answer, or whose requester has left not long ago."""

    def __init__(self) -> None:
        self._calls: dict[Key, OrderedDict[Call, None]] = {}
        self._forgetting: set[asyncio.TimerHandle] = set()

    def __len__(self) -> int:
        return sum(len(calls) for calls in self._calls.values())

    def open(self, key: Key, call: Call) -> None:
        """From now on an answer to `key` is one to this call."""
        calls = self._calls.setdefault(key, OrderedDict())
        calls[call] = None
        if len(calls) > SLOTS_MAX:
            calls.popitem(last=False)
        if call.waits:
            call.ended = lambda: self._forget_later(key, call)
        else:
            self._forget_later(key, call)

    def take(self, key: Key) -> Call | None:
        """Return the call that an answer to `key` is for, if there is one; it may have ended."""
        calls = self._calls.get(key)
        if not calls:
            return None
        call, _ = calls.popitem(last=False)
        if not calls:
            del self._calls[key]
        call.ended = None
        return call

    def close(self) -> None:
        """Forget all of them."""
        for timer in self._forgetting:
            timer.cancel()
        self._calls.clear()

    def _forget_later(self, key: Key, call: Call) -> None:
        def forget() -> None:
            self._forgetting.discard(timer)
            calls = self._calls.get(key)
            if calls is not None:
                calls.pop(call, None)
                if not calls:
                    del self._calls[key]

        timer = asyncio.get_running_loop().call_later(FORGET_S, forget)
        self._forgetting.add(timer)
