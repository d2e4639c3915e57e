"""Waiting for leases: in the order of arrival, each for a bounded time, woken when one is over."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from api.answer import cancel_all
from projectors.document.leases.commands import Held
from projectors.outcome import Answer, Committed
from schemas.leases import LeaseReleased
from schemas.problems import UNAVAILABLE, Refusal

WAITING_MAX = 4096  # on this node
WAITING_FOR_ONE_MAX = 1024
LOOK_AGAIN_S = 5.0  # somebody may have set the clock by which leases end
SHORTEST_S = 0.001
STOPPING_RETRY_AFTER_S = 5

Attempt = Callable[[int], Awaitable[Answer]]
"""Asks for the lease once, on behalf of somebody behind so many others; raises `Held` if it is not to be had."""
_Resource = tuple[str, str]

WAITING = Gauge("forge_lease_waiters", "Callers that wait for a lease.")


class _Place:
    """One caller's place in a line."""

    __slots__ = ("called",)

    def __init__(self) -> None:
        self.called = asyncio.Event()


class LeaseLines:
    """The callers that wait on this node, a line for each resource of each document.

    Hand `heard` to `Partitions.listen`: a lease that is released calls the first of its line.
    """

    def __init__(self, waiting_max: int = WAITING_MAX, waiting_for_one_max: int = WAITING_FOR_ONE_MAX) -> None:
        self._waiting_max = waiting_max
        self._waiting_for_one_max = waiting_for_one_max
        self._lines: dict[_Resource, deque[_Place]] = {}
        self.waiting = 0

    async def ask(self, db_id: str, resource: str, wait_s: float, attempt: Attempt, stopping: asyncio.Event) -> Answer:
        """Return the answer to `attempt`, made again for up to `wait_s` seconds; raise its `Refusal`.

        Nobody waits on a node that is `stopping` (503).
        """
        key = (db_id, resource)
        if wait_s <= 0:
            return await attempt(len(self._lines.get(key, ())))
        with self._joined(key) as (line, place):
            return await _granted(line, place, wait_s, attempt, stopping)

    @contextmanager
    def _joined(self, key: _Resource) -> Iterator[tuple[deque[_Place], _Place]]:
        here = len(self._lines.get(key, ()))
        if self.waiting >= self._waiting_max or here >= self._waiting_for_one_max:
            raise Refusal(UNAVAILABLE.problem(f"{self.waiting} callers wait for leases on this node, {here} for it"))
        line = self._lines.setdefault(key, deque())
        place = _Place()
        line.append(place)
        self._count(1)
        try:
            yield line, place
        finally:
            self._count(-1)
            self._leave(key, place)

    def _leave(self, key: _Resource, place: _Place) -> None:
        line = self._lines[key]
        first = line[0] is place
        line.remove(place)
        if not line:
            del self._lines[key]
        elif first:
            line[0].called.set()

    def _count(self, change: int) -> None:
        self.waiting += change
        WAITING.inc(change)

    def heard(self, committed: Committed) -> None:
        """Call those whose lease may be free."""
        if committed.partition.domain != "doc" or not self._lines:
            return
        db_id = committed.partition.key
        if not committed.facts:  # it may have folded anything
            for (of, _), line in self._lines.items():
                if of == db_id:
                    line[0].called.set()
        for fact in committed.facts:
            if isinstance(fact, LeaseReleased) and (found := self._lines.get((db_id, fact.resource))):
                found[0].called.set()


async def _granted(
    line: deque[_Place], place: _Place, wait_s: float, attempt: Attempt, stopping: asyncio.Event
) -> Answer:
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait_s
    while True:
        if stopping.is_set():
            raise Refusal(UNAVAILABLE.problem("the node is stopping", retry_after_s=STOPPING_RETRY_AFTER_S))
        place.called.clear()  # before asking: what happens meanwhile is worth asking again
        try:
            return await attempt(0 if line[0] is place else len(line) - 1)
        except Held as held:
            left_s = deadline - clock()
            if left_s <= 0:
                raise
            if line[0] is place:
                left_s = min(left_s, max(held.left_s, SHORTEST_S), LOOK_AGAIN_S)
            await _either(place.called, stopping, left_s)


async def _either(one: asyncio.Event, other: asyncio.Event, wait_s: float) -> None:
    """Wait until one of them is set, at most `wait_s`."""
    waiting = [asyncio.ensure_future(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_all(waiting)
