"""A request that waits for its answer: one slot, which only whoever took the request can fill."""

import asyncio
from collections.abc import Callable

from api.relay import metrics
from api.relay.channel import Channels, Key
from api.relay.offer import Message, Offer, Sent
from schemas.problems import NO_ANSWER, RELAY_BROKEN, WAIT_OVER, Problem


class Call(Sent):
    """One request. `answer` is done with the offer that answers it, or with the problem why there is none.

    A responder that takes it has a copy of the request; once that is complete the call is open for its answer, for
    `answer_s` seconds. If the copy fails, somebody else may still take the request.
    """

    __slots__ = ("_answer_s", "_calls", "_key", "_timer", "answer", "ended", "left", "lent")

    def __init__(self, message: Message, calls: "Channels[Call]", key: Key, answer_s: float) -> None:
        super().__init__(message)
        self.answer: asyncio.Future[Offer | Problem] = asyncio.get_running_loop().create_future()
        self.left = False
        self.lent = False  # a responder still needs the request, and closes it
        self.ended: Callable[[], object] | None = None  # who to tell that no answer is taken any more
        self._calls = calls
        self._key = key
        self._answer_s = answer_s
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waits(self) -> bool:
        """Whether an answer would still be taken."""
        return not (self.left or self.answer.done())

    def wait_at_most(self, wait_s: float) -> asyncio.TimerHandle:
        """Give up (408) if there is no answer in time."""
        problem = WAIT_OVER.problem(f"there was no answer within {wait_s:g} s")
        return asyncio.get_running_loop().call_later(wait_s, self.refuse, problem)

    def settle(self, complete: bool) -> None:
        """A responder has all of the request, or failed before it had."""
        if not self.waits:
            self._close_body()
        elif complete:
            self._close_body()
            why = f"nobody answered within {self._answer_s:g} s after the request was taken"
            self._timer = asyncio.get_running_loop().call_later(self._answer_s, self.refuse, NO_ANSWER.problem(why))
        elif self.message.body.rereadable:
            metrics.RETURNED.inc()
            self._calls.put_back(self._key, self)
        else:
            self.refuse(RELAY_BROKEN.problem("the responder broke off before it had all of the request"))

    def reply(self, offer: Offer) -> bool:
        """Answer; say whether the requester still waits for that."""
        if not self.waits:
            return False
        offer.answer()
        self.answer.set_result(offer)
        self._end()
        return True

    def refuse(self, problem: Problem) -> None:
        """There will be no answer."""
        if self.waits:
            self._calls.withdraw(self._key, self)
            self.answer.set_result(problem)
            self._end()
            self._close_body()

    def leave(self) -> None:
        """The requester has gone: no answer is his any more, nor anybody else's."""
        if self.left:
            return
        self.left = True
        withdrawn = self._calls.withdraw(self._key, self)
        if self.answer.done():
            if isinstance(answer := self.answer.result(), Offer):
                answer.settle(False)
        else:
            self._end()
        if withdrawn or not self.begun.is_set() or not self.message.body.complete:
            self._close_body()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.ended is not None:
            self.ended()

    def _close_body(self) -> None:
        if not self.lent:
            self.message.body.close()
