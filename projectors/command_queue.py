"""The commands that wait for a commit loop: bounded, and each answered exactly once."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from events.write_guard import ALWAYS_OPEN, WriteGuard
from projectors.outcome import Answer, Outcome
from schemas.facts import Command
from schemas.ids import Position
from schemas.problems import NOT_THE_WRITER, OUTCOME_UNKNOWN, UNAVAILABLE, Problem, Refusal

QUEUE_COMMANDS_MAX = 8192


class Pending:
    """A command that waits for its answer."""

    __slots__ = ("answer", "command", "command_id", "expected", "principal", "taken")

    def __init__(
        self,
        command: Command,
        principal: str,
        command_id: str | None,
        answer: "asyncio.Future[Any]",
        expected: Position | None = None,
    ) -> None:
        self.command = command
        self.principal = principal
        self.command_id = command_id
        self.expected = expected
        self.answer = answer
        self.taken = False

    @property
    def answered(self) -> bool:
        """Whether nobody waits any more: it was answered, or its caller went away."""
        return self.answer.done()


class CommandQueue:
    """Commands in the order of their arrival. `filled` is set whenever one arrives.

    While `closed_because` is set, or `guard` is closed, no new ones are taken.
    """

    def __init__(self, name: str, guard: WriteGuard = ALWAYS_OPEN) -> None:
        self._name = name
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Pending] = deque()
        self.closed_because: Problem | None = None
        self.filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    async def submit(
        self,
        command: Command,
        principal: str,
        command_id: str | None,
        expected: Position | None,
        timeout_s: float | None,
    ) -> Any:
        """Wait for the answer to `command`; raise `Refusal`, also when the queue is full or `timeout_s` is over.

        A command whose caller goes away before it was taken is never decided.
        """
        if self.closed_because is not None:
            raise Refusal(self.closed_because)
        if (why := self._guard.closed_because) is not None:
            raise Refusal(NOT_THE_WRITER.problem(why))
        if len(self._waiting) >= QUEUE_COMMANDS_MAX:
            raise Refusal(UNAVAILABLE.problem(f"{QUEUE_COMMANDS_MAX} commands are waiting for {self._name}"))
        pending = Pending(command, principal, command_id, self._loop.create_future(), expected)
        deadline = None if timeout_s is None else self._loop.call_later(timeout_s, _give_up, pending)
        self._waiting.append(pending)
        self.filled.set()
        try:
            return await pending.answer
        finally:
            if deadline is not None:
                deadline.cancel()
            if not pending.taken:
                with suppress(ValueError):  # unless it was refused together with the rest of the queue
                    self._waiting.remove(pending)

    def take(self, commands_max: int) -> list[Pending]:
        """Take commands out, to be decided. One whose caller left this very moment is dropped."""
        queued = [self._waiting.popleft() for _ in range(min(len(self._waiting), commands_max))]
        taken = [pending for pending in queued if not pending.answered]
        for pending in taken:
            pending.taken = True
        return taken

    def give_back(self, pending: Sequence[Pending]) -> None:
        """Put commands that were taken back to the front: nothing was decided about them."""
        for one in pending:
            one.taken = False
        self._waiting.extendleft(reversed([one for one in pending if not one.answered]))

    def refuse_all(self, problem: Problem) -> None:
        """Refuse everything that waits."""
        waiting, self._waiting = self._waiting, deque()
        refuse(waiting, problem)


def answer(pending: Sequence[Pending], outcomes: Sequence[Outcome], position: Position) -> None:
    """Answer commands that were decided together; those decided now can be read at `position`."""
    for one, outcome in zip(pending, outcomes, strict=True):
        if one.answered:
            continue
        match outcome:
            case Exception():
                one.answer.set_exception(outcome)
            case (earlier, value):
                one.answer.set_result(Answer(earlier or position, value))


def refuse(pending: Sequence[Pending] | deque[Pending], problem: Problem) -> None:
    """Answer commands that are not answered yet with a refusal."""
    for one in pending:
        if not one.answered:
            one.answer.set_exception(Refusal(problem))


def _give_up(pending: Pending) -> None:
    kind, what = (
        (OUTCOME_UNKNOWN, "the log has not confirmed yet") if pending.taken else (UNAVAILABLE, "nothing was changed")
    )
    refuse([pending], kind.problem(f"queue ack timeout: {what}"))
