"""The commit loop: the only writer of a partition.

It takes the commands that wait, decides them in an open transaction, appends one record, commits the projections
and answers. While a record is on its way, the next commands gather: batching is natural, never timed.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog

from events.append import Conflict, append
from events.cursor import Cursor
from events.durability import NotDurable
from events.errors import LogDamaged, LogError, LogUnavailable, MessageTooLarge, NotTheWriter
from events.log import Log
from events.read import check_end
from events.write_guard import ALWAYS_OPEN, WriteGuard
from projectors import metrics
from projectors.batch import Batch
from projectors.catch_up import Progress, catch_up
from projectors.command_queue import CommandQueue, Pending, answer, refuse
from projectors.domain import Domain
from projectors.hints import Hints
from projectors.opening import open_projections
from projectors.outcome import Answer, Committed
from projectors.projection import Projection
from projectors.standstill import explain, not_appended
from projectors.tasks import end
from projectors.threads import Threads
from projectors.waiters import Waiters
from schemas.facts import Command
from schemas.ids import PartitionId, Position
from schemas.instants import now as wall_clock
from schemas.problems import NOT_THE_WRITER, OUTCOME_UNKNOWN, UNAVAILABLE, Problem, Refusal

BATCH_COMMANDS_MAX = 1024
CONFLICTS_MAX = 8
REOPEN_AFTER_S = 2.0

log = structlog.get_logger(__name__)


class Partition:
    """One partition, open in this process. `submit` from anywhere on the event loop; `close` when done."""

    def __init__(
        self,
        partition: PartitionId,
        domain: Domain,
        event_log: Log,
        threads: Threads,
        *,
        node: str,
        notify: Callable[[Committed], None] = lambda _: None,
        progress: Progress = lambda _: None,
        clock: Callable[[], str] = wall_clock,
        predecessor: asyncio.Event | None = None,
        epoch: int = 1,
        guard: WriteGuard = ALWAYS_OPEN,
    ) -> None:
        """`predecessor` is set once who had it open before has closed its files; a closed `guard` refuses commands."""
        self.id = partition
        self._domain = domain
        self._log = event_log
        self._threads = threads
        self._node = node
        self._notify = notify
        self._progress = progress
        self._clock = clock
        self._predecessor = predecessor
        self._epoch = epoch
        self._loop = asyncio.get_running_loop()
        self._guard = guard
        self._queue = CommandQueue(str(partition), guard)
        self._waiters = Waiters()
        self._append_seconds = metrics.append_seconds.labels(partition.domain)
        self._apply_seconds = metrics.apply_seconds.labels(partition.domain)
        self._batch_commands = metrics.batch_commands.labels(partition.domain)
        self._projections: list[Projection] = []
        self._cursor: Cursor | None = None
        self._conflicts = 0
        self.stopped_because: str | None = None
        self._damage: Problem | None = None  # until somebody mends the log there is nothing to wait for
        self._in_round = False
        self._behind = False  # somebody else has appended something
        self._idle_since = self._loop.time()
        self._hints = Hints(event_log.live, partition)
        self._tasks = [
            asyncio.create_task(self._run(), name=f"commit loop of {partition}"),
            asyncio.create_task(self._hints.run(), name=f"hints of {partition}"),
        ]

    @property
    def position(self) -> Position | None:
        """Where the projections stand; None while they are not open."""
        return self._cursor.position if self._cursor else None

    @property
    def damaged(self) -> bool:
        """Whether it is stopped because the log is not what it must be, so that somebody has to decide."""
        return self._damage is not None

    @property
    def waiting(self) -> int:
        """How many commands wait."""
        return len(self._queue)

    @property
    def idle_s(self) -> float:
        """For how long nobody has wanted it; 0 while it opens, or a command waits, is decided or is on its way."""
        busy = self._queue or self._in_round or (self._cursor is None and not self.stopped_because)
        return 0.0 if busy else self._loop.time() - self._idle_since

    def used(self) -> None:
        """Note that somebody wants it: it is not idle from now on for a while."""
        self._idle_since = self._loop.time()

    def look(self) -> None:
        """Fold what somebody else has appended: this node follows another."""
        self._behind = True
        self._queue.filled.set()

    def submit(
        self,
        command: Command,
        *,
        principal: str,
        command_id: str | None = None,
        expected: Position | None = None,
        timeout_s: float | None = None,
    ) -> Coroutine[Any, Any, Answer]:
        """Have a command decided; return its answer once it is durable and visible.

        Raise `Refusal`: the decision's own, 412 if the partition is not at `expected`, or 503 when the queue is full,
        the log is away, or `timeout_s` is over (`outcome-unknown` if the command was already taken; it may still
        happen, and repeating it is safe).
        """
        return self._queue.submit(command, principal, command_id, expected, timeout_s)

    async def ready(self, timeout_s: float) -> None:
        """Wait until the projections are open and caught up; raise `Refusal` with the reason if they are not."""
        await self._wait_until(lambda: self._cursor is not None, timeout_s)

    async def reached(self, position: Position, timeout_s: float) -> None:
        """Wait until `position` can be read here; raise `Refusal` (503) if that takes longer."""
        await self._wait_until(lambda: self._cursor is not None and self._cursor.position >= position, timeout_s)

    async def _wait_until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        if self._damage and not condition():
            raise Refusal(self._damage)
        try:
            await self._waiters.until(condition, timeout_s)
        except TimeoutError:
            reason = self.stopped_because or f"{self.id} stands at {self.position or 'no position yet'}"
            raise Refusal(UNAVAILABLE.problem(reason)) from None

    async def close(self) -> None:
        """Stop the loop. A record on its way is abandoned; its callers are told that nobody knows."""
        self._queue.closed_because = UNAVAILABLE.problem("this node is stopping")
        for task in self._tasks:
            await end(task)
        self._queue.refuse_all(self._queue.closed_because)
        await self._threads.run(self._close_projections)

    async def _run(self) -> None:
        if self._predecessor is not None:
            await self._predecessor.wait()
        while True:
            try:
                if not self._projections:
                    await self._open()
                if self._behind:
                    await self._fold_foreign()
                elif not self._queue:
                    self._idle_since = self._loop.time()
                    self._queue.filled.clear()
                    await self._queue.filled.wait()
                else:
                    self._in_round = True
                    await self._round()
            except Exception as error:
                await self._stop(error)
            self._in_round = False

    async def _open(self) -> None:
        await self._log.require_durable()
        projections = await open_projections(self._log.reader, self._threads, self._domain, self.id, self._progress)
        self._projections = projections
        self.stopped_because = self._damage = self._queue.closed_because = None
        self._move(projections[0].cursor, tell=True)

    def _move(self, cursor: Cursor, *, tell: bool = False) -> None:
        self._cursor = cursor
        self._waiters.check()
        if tell:  # nobody knows which facts
            self._notify(Committed(self.id, cursor.position, []))

    async def _stop(self, error: Exception) -> None:
        """Close everything and try again later; what waits is told why."""
        problem = explain(error, str(self.id), known=self.stopped_because)
        if isinstance(error, LogDamaged):
            self._damage = self._queue.closed_because = problem
        self.stopped_because = problem.detail if isinstance(error, LogError) else f"{problem.detail}: {error!r}"
        self._cursor = None
        with suppress(Exception):
            await self._threads.run(self._close_projections)
        self._queue.refuse_all(problem)
        if self._damage or isinstance(error, NotDurable):
            self._waiters.refuse(problem)
        await asyncio.sleep(REOPEN_AFTER_S)

    async def _round(self) -> None:
        """One record: take, decide, append, commit, answer."""
        taken = self._queue.take(BATCH_COMMANDS_MAX)
        if not taken:
            return
        if (why := self._guard.closed_because) is not None:
            return refuse(taken, NOT_THE_WRITER.problem(why))
        batch = Batch(self._domain, self._projections, self.id, self._node, self._clock, self._epoch)
        decided = 0
        try:
            with self._apply_seconds.time():
                decided, quick = await batch.decide_where_quick(taken, self._threads)
            self._queue.give_back(taken[decided:])
            if batch.record is None:
                await self._sqlite(quick, batch.rollback)
            elif not await self._append(batch, taken[:decided], quick=quick):
                return
        except BaseException as error:
            # Nothing was answered yet. After an unfinished append only the log knows what happened.
            kind = OUTCOME_UNKNOWN if decided and batch.record else UNAVAILABLE
            refuse([one for one in taken if one.taken], kind.problem(f"interrupted: {error!r}"))
            with suppress(Exception):
                batch.rollback()
            raise
        if batch.record is not None and (why := self._guard.closed_because) is not None:
            refuse(taken[:decided], OUTCOME_UNKNOWN.problem(f"it was written here, but {why}"))
        self._answer(batch, taken[:decided])
        for projection in [one for one in self._projections if one.checkpoint_due]:
            await self._threads.run(projection.checkpoint)

    async def _append(self, batch: Batch, taken: list[Pending], *, quick: bool) -> bool:
        """Append and commit; say whether the commands are decided (else they were put back or refused)."""
        assert batch.record is not None
        expected = batch.before.sequence
        try:
            await self._log.require_durable()
            with self._append_seconds.time():
                outcome = await append(self._log.writer, batch.record, expected, self._guard)
        except (LogUnavailable, MessageTooLarge, NotTheWriter) as error:
            await self._threads.run(batch.rollback)
            refuse(taken, not_appended(error))
            return False
        if isinstance(outcome, Conflict):
            await self._threads.run(batch.rollback)
            await self._decide_again(taken)
            return False
        self._conflicts = 0
        cursor = batch.cursor(outcome.sequence)
        await self._sqlite(quick, batch.commit, cursor)
        self._move(cursor)
        return True

    async def _decide_again(self, taken: list[Pending]) -> None:
        """Fold what another writer appended, and queue the commands again, a bounded number of times."""
        self._conflicts += 1
        if self._conflicts >= CONFLICTS_MAX:
            self._conflicts = 0
            refuse(taken, UNAVAILABLE.problem(f"another writer of {self.id} is faster; try again"))
        else:
            self._queue.give_back(taken)
        if not await self._fold_foreign() and self._cursor is not None:
            await check_end(self._log.reader, self.id, self._cursor)  # nobody was faster: the log is not what it was

    async def _fold_foreign(self) -> bool:
        """Fold what somebody else appended; say whether there was something."""
        self._behind = False
        await catch_up(self._log.reader, self._threads, self._domain, self.id, self._projections)
        if moved := self._projections[0].cursor != self._cursor:
            self._move(self._projections[0].cursor, tell=True)
        return moved

    def _answer(self, batch: Batch, taken: list[Pending]) -> None:
        self._batch_commands.observe(len(taken))
        answer(taken, batch.outcomes, batch.position)
        if batch.record is not None:
            self._notify(Committed(self.id, batch.position, batch.facts))
            self._hints.tell(batch.position)

    def _close_projections(self) -> None:
        while self._projections:
            self._projections.pop().close()

    async def _sqlite(self, quick: bool, work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments) if quick else await self._threads.run(work, *arguments)
