"""Channels against a model: two queues, of which one is always empty."""

import asyncio
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from api.relay import channel
from api.relay.channel import Channels, Key
from schemas.problems import UNAVAILABLE, Problem, Refusal

KEY = Key("d", "x")


class Thing:
    """Something on offer."""

    def __init__(self, channels: "Channels[Thing]", number: int) -> None:
        self.number = number
        self.refused: Problem | None = None
        self._channels = channels

    def taken(self) -> None: ...

    def settle(self, complete: bool) -> None:
        if not complete:
            self._channels.put_back(KEY, self)

    def refuse(self, problem: Problem) -> None:
        self.refused = problem


class ChannelMachine(RuleBasedStateMachine):
    """P4.1, S1, S4, S13: first come, first served, and nothing is lost or left, whoever offers, waits or leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.channels: Channels[Thing] = Channels()
        self.offered: deque[Thing] = deque()  # in the order in which they must be taken
        self.waiting: deque[asyncio.Task[Thing]] = deque()
        self.held: list[Thing] = []  # by those who have them, and may still fail
        self.made = 0

    def run_loop(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))

    def gets(self, thing: Thing) -> None:
        """The model: whoever waits longest gets it, else it is kept in order."""
        if self.waiting:
            taker = self.waiting.popleft()
            self.run_loop()
            assert taker.result() is thing
            self.held.append(thing)
        else:
            self.offered = deque(sorted([*self.offered, thing], key=lambda one: one.number))

    @rule()
    def offer(self) -> None:
        thing = Thing(self.channels, self.made)
        self.made += 1
        self.channels.offer(KEY, thing)
        self.gets(thing)

    @rule()
    def wait(self) -> None:
        taker = self.loop.create_task(self.channels.take(KEY))
        self.run_loop()
        if self.offered:
            assert taker.result() is self.offered[0]
            self.held.append(self.offered.popleft())
        else:
            self.waiting.append(taker)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        taker = self.waiting[data.draw(st.integers(0, len(self.waiting) - 1))]
        self.waiting.remove(taker)
        taker.cancel()
        self.run_loop()
        assert taker.cancelled()

    @precondition(lambda self: self.waiting)
    @rule()
    def leave_at_the_moment_of_getting(self) -> None:
        """What was handed over to somebody who leaves before he could look at it is not lost."""
        thing = Thing(self.channels, self.made)
        self.made += 1
        self.channels.offer(KEY, thing)
        taker = self.waiting.popleft()
        taker.cancel()
        self.run_loop()
        assert taker.cancelled()
        self.gets(thing)

    @precondition(lambda self: self.offered)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        thing = self.offered[data.draw(st.integers(0, len(self.offered) - 1))]
        self.offered.remove(thing)
        assert self.channels.withdraw(KEY, thing)
        assert not self.channels.withdraw(KEY, thing)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        thing = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        thing.settle(False)
        self.gets(thing)

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        assert self.channels.offers_waiting == len(self.offered)
        assert self.channels.takers_waiting == len(self.waiting)
        assert len(self.channels) == bool(self.offered or self.waiting)
        assert self.channels.oldest(KEY) is (self.offered[0] if self.offered else None)

    def teardown(self) -> None:
        problem = UNAVAILABLE.problem("over")
        self.channels.stop(problem)
        self.run_loop()
        assert all(thing.refused is problem for thing in self.offered)
        assert all(isinstance(taker.exception(), Refusal) for taker in self.waiting)
        assert len(self.channels) == 0
        self.loop.close()


ChannelMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)


TestChannel = ChannelMachine.TestCase


async def test_a_channel_where_too_many_wait_refuses_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """PR7: 503, on either side."""
    monkeypatch.setattr(channel, "WAITING_MAX", 2)
    channels: Channels[Thing] = Channels()
    for number in range(2):
        channels.offer(KEY, Thing(channels, number))
    with pytest.raises(Refusal):
        channels.offer(KEY, Thing(channels, 2))
    other = Key("d", "y")
    waiting = [asyncio.ensure_future(channels.take(other)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Refusal) as refused:
        await channels.take(other)
    assert refused.value.problem.status == 503
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    assert len(channels) == 1
