"""The relay under any order of arrivals, answers and departures: nothing leaks, nobody gets what is another's."""

import asyncio
import itertools
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from api.relay.body import SPOOL_BYTES
from api.relay.relay import Relay
from tests.unit.relay_actors import Actor, settle

SMALL, MEDIUM, LARGE = b"small ", b"medium " * (SPOOL_BYTES // 10), b"large " * (SPOOL_BYTES // 3)
"""One that is handed over at once, one that can be read again, and one that only streams."""
NAMES = ("a", "b")
sizes = st.sampled_from([SMALL, MEDIUM, LARGE])


class RelayMachine(RuleBasedStateMachine):
    """P4.1, P4.3, S1 to S9, S13: random departures at every phase leak no task, buffer or answer.

    Actors of every kind; each body begins with who sent it, and an answer with whom it is for, if that is known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.numbers = itertools.count()
        self.actors: list[tuple[str, Actor]] = []
        self.bodies: dict[Actor, bytes] = {}
        self.unsent: dict[Actor, bytes] = {}
        self.takers: list[tuple[Actor, str | None]] = []  # with the name where the answer is expected

    @initialize()
    def begin(self) -> None:
        async def make() -> Relay:
            return Relay(bytes_max=128 << 20, answer_s=3600)

        self.relay = self.loop.run_until_complete(make())

    def start(
        self, kind: str, method: str, name: str, query: str = "", body: bytes = b"", *, whole: bool = True
    ) -> Actor:
        """Let somebody come, with all of his body, or with all but the end of it."""
        last = len(body) if whole else len(body) * 3 // 4

        async def make() -> Actor:
            actor = Actor(self.relay, method, name, query)
            actor.send(body[: len(body) // 2], last=False)
            await settle()
            actor.send(body[len(body) // 2 : last], last=whole)
            await settle()
            return actor

        actor = self.loop.run_until_complete(make())
        if not whole:
            self.unsent[actor] = body[last:]
        self.actors.append((kind, actor))
        self.bodies[actor] = body
        return actor

    def number(self) -> bytes:
        return b"<%d>" % next(self.numbers)

    @rule(name=st.sampled_from(NAMES))
    def consume(self, name: str) -> None:
        self.start("consumer", "GET", name)

    @rule(name=st.sampled_from(NAMES), size=sizes, whole=st.booleans())
    def produce(self, name: str, size: bytes, whole: bool) -> None:
        self.start("producer", "POST", name, body=self.number() + size, whole=whole)

    @rule(name=st.sampled_from(NAMES), size=sizes, whole=st.booleans())
    def publish(self, name: str, size: bytes, whole: bool) -> None:
        self.start("publisher", "POST", name, "pubsub", body=self.number() + size, whole=whole)

    @rule(size=sizes, whole=st.booleans())
    def ask(self, size: bytes, whole: bool) -> None:
        self.start("requester", "POST", "req/x", body=self.number() + size, whole=whole)

    @rule(size=sizes, wants=st.booleans(), whole=st.booleans())
    def answer_in_advance(self, size: bytes, wants: bool, whole: bool) -> None:
        query = "request" if wants else ""
        self.start("responder", "POST", "res/x", query, body=b"*" + self.number() + size, whole=whole)

    @rule(data=st.data())
    def send_the_rest(self, data: st.DataObject) -> None:
        if self.unsent:
            actor = data.draw(st.sampled_from(list(self.unsent)))
            rest = self.unsent.pop(actor)
            self.step(lambda: actor.send(rest, last=True))

    @rule()
    def take(self) -> None:
        self.takers.append((self.start("taker", "GET", "res/x"), None))

    @rule()
    def switch(self) -> None:
        name = f"answer-{next(self.numbers)}"
        self.takers.append((self.start("switcher", "POST", "res/x", "switch", body=name.encode()), name))

    @rule(data=st.data(), size=sizes)
    def answer_at_a_name(self, data: st.DataObject, size: bytes) -> None:
        """Whoever has all of a request answers at the name that it chose, with what it was asked."""
        ready = [(actor, name) for actor, name in self.takers if name and actor.ended and actor.status == 200]
        if ready:
            actor, name = data.draw(st.sampled_from(ready))
            assert name
            self.start("poster", "POST", name, body=b"=" + actor.body[: actor.body.index(b">") + 1] + size)

    @rule(name=st.integers(0, 20))
    def post_too_early(self, name: int) -> None:
        self.start("early", "POST", f"answer-{name}", body=b"*" + self.number())

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        alive = [actor for _, actor in self.actors if not (actor.gone or actor.task.done())]
        if alive:
            self.step(data.draw(st.sampled_from(alive)).leave)

    @rule(data=st.data())
    def leave_as_others_come(self, data: st.DataObject) -> None:
        """Several at the same moment, before anybody can look."""
        alive = [actor for _, actor in self.actors if not (actor.gone or actor.task.done())]
        if alive:
            leaving = data.draw(st.lists(st.sampled_from(alive), min_size=1, max_size=3, unique=True))
            body = self.number() + SMALL

            def act() -> None:
                for kind, method, name in (("producer", "POST", "a"), ("requester", "POST", "req/x")):
                    actor = Actor(self.relay, method, name)
                    actor.send(body, last=True)
                    self.actors.append((kind, actor))
                    self.bodies[actor] = body
                for one in leaving:
                    one.leave()

            self.step(act)

    @rule(data=st.data(), parts=st.sampled_from([1, 100]))
    def receive(self, data: st.DataObject, parts: int) -> None:
        streaming = [actor for _, actor in self.actors if actor.status is not None and not actor.task.done()]
        if streaming:
            actor = data.draw(st.sampled_from(streaming))
            self.step(lambda: actor.let_through(parts))

    def step(self, act: Any) -> None:
        async def run() -> None:
            act()
            await settle()

        self.loop.run_until_complete(run())

    @invariant()
    def nobody_gets_what_is_another_s(self) -> None:
        whole: dict[bytes, list[str]] = {}
        for kind, actor in self.actors:
            if kind == "requester" and actor.status == 200 and actor.body.startswith(b"="):
                asked = self.bodies[actor]
                assert actor.body[1 : actor.body.index(b">") + 1] == asked[: asked.index(b">") + 1]
            if actor.ended and actor.body and kind in ("consumer", "requester"):
                whole.setdefault(actor.body[: actor.body.index(b">") + 1], []).append(kind)
        once = {
            self.bodies[a][: self.bodies[a].index(b">") + 1] for k, a in self.actors if k in ("producer", "responder")
        }
        assert all(len(receivers) == 1 for start, receivers in whole.items() if start in once)

    @invariant()
    def who_was_told_that_it_was_delivered_was_heard(self) -> None:
        heard = {actor.body for _, actor in self.actors if actor.ended}
        for kind, actor in self.actors:
            if kind in ("producer", "poster") and actor.ended and actor.status == 200:
                assert self.bodies[actor] in heard

    @invariant()
    def the_counts_are_right(self) -> None:
        relay = self.relay
        for channels in (relay.offers, relay.calls):
            held = channels._channels.values()
            assert channels.offers_waiting == sum(len(one.offers) for one in held)
            assert channels.takers_waiting == sum(len(one.takers) for one in held)
            assert all(bool(one.offers) != bool(one.takers) for one in held)
        assert relay.budget.used_bytes <= 128 << 20

    def unanswered(self, kind: str) -> int:
        """Return how many of a kind have said all they have to say, and have heard nothing yet."""
        return sum(
            not (one.task.done() or one.gone or one in self.unsent) and one.status is None
            for its_kind, one in self.actors
            if its_kind == kind
        )

    def teardown(self) -> None:
        async def end() -> None:
            for kind, actor in self.actors:  # who answers must hear of it when whoever asked has gone
                if kind == "requester":
                    actor.leave()
            await settle(200)
            open_ones = {kind: self.unanswered(kind) for kind in ("poster", "responder", "taker", "switcher")}
            assert open_ones.pop("poster") == 0
            assert sum(open_ones.values()) <= self.relay.calls.takers_waiting
            for _, actor in self.actors:
                actor.leave()
            await settle(200)
            assert all(actor.task.done() for _, actor in self.actors)
            relay = self.relay
            assert (len(relay.offers), len(relay.calls), len(relay.switch), len(relay.asked)) == (0, 0, 0, 0)
            assert relay.budget.used_bytes == 0
            relay.close()
            await settle()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        try:
            if hasattr(self, "relay"):
                self.loop.run_until_complete(end())
        finally:
            self.loop.close()


RelayMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25)


TestRelay = RelayMachine.TestCase
