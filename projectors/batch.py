"""One round of the commit loop on the SQLite side: decide commands in an open transaction, then commit or undo."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import apsw
import structlog
from blake3 import blake3
from ulid import ULID

from events.cursor import Cursor
from events.envelope import Event, Receipt, encode_event
from events.record import RECORD_BYTES_MAX, Record, encode_payload
from projectors.command_queue import Pending
from projectors.domain import Decision, Domain, NotQuick
from projectors.outcome import Outcome
from projectors.projection import Projection
from projectors.threads import Threads
from schemas.facts import Command, Fact
from schemas.ids import PartitionId, Position
from schemas.problems import BODY_TOO_LARGE, INTERNAL, PRECONDITION_FAILED, UNPROCESSABLE, Refusal

QUICK_COMMANDS_MAX = 4  # decided on the event loop: a lone command would wait longer for threads than for SQLite
BATCH_BYTES_MAX = 2 << 20
BATCH_SECONDS_MAX = 0.05
COMMAND_BYTES_MAX = RECORD_BYTES_MAX - 2 * BATCH_BYTES_MAX

log = structlog.get_logger(__name__)


class _FailedHalfWay(Exception):
    """A command failed after it may have written something."""


class _TransactionLost(Exception):
    """A command made SQLite undo the whole transaction, as an interrupted write does."""


class _TooLarge(Exception):
    """A command's events would make a record that readers refuse."""


class Batch:
    """Commands decided together. Call `decide`, then `commit` or `rollback`; one thread at a time."""

    def __init__(
        self,
        domain: Domain,
        projections: Sequence[Projection],
        partition: PartitionId,
        node: str,
        clock: Callable[[], str],
        epoch: int = 1,
    ) -> None:
        self._domain = domain
        self._projections = projections
        self._partition = partition
        self._node = node
        self._clock = clock
        self._epoch = epoch
        self._source = f"/forge/node/{node}"
        self._open = False
        self._encoded: list[bytes] = []
        self._now = ""
        self.outcomes: list[Outcome] = []
        self.facts: list[Fact] = []
        self.record: Record | None = None
        self._hash = ""
        self.before: Cursor = projections[0].cursor
        self._decide = domain.decide
        self._settled: dict[int, Outcome] = {}  # by place: commands that would undo all others once more

    @property
    def position(self) -> Position:
        """Where the partition stands with this batch."""
        return self.record.position if self.record else self.before.position

    @property
    def _next(self) -> Position:
        return self.before.position.next(self._epoch)

    def cursor(self, sequence: int) -> Cursor:
        """Return where the partition stands once this batch's record is at `sequence` of its stream."""
        return Cursor(self.position, self._hash, sequence)

    def decide(self, commands: Sequence[Pending], *, quick: bool = False) -> int:
        """Decide commands until a bound of count, bytes or time is met; return how many, at least one.

        `quick`: on the event loop. Raise `NotQuick` if that was a mistake; nothing is left behind then.

        Savepoints cost as much as a small command, and are only needed for a command that fails half-way. So
        the first run does without; if one fails, everything is undone and decided again with savepoints. A command
        that made SQLite undo everything has its outcome, and the others are decided again without it.
        """
        record_id = str(ULID())
        careful = False
        self._decide = self._domain.quick.decide if quick and self._domain.quick else self._domain.decide
        while True:
            self._begin()
            try:
                self._decide_all(commands, record_id, careful=careful)
                break
            except _FailedHalfWay:
                self.rollback()
                careful = True
            except _TransactionLost:
                self.rollback()
            except NotQuick:
                self.rollback()
                raise
        if self._encoded:
            payload, encoding = encode_payload(self._encoded)
            position = self._next
            self.record = Record(self._partition, position, self.before.hash, record_id, self._node, payload, encoding)
            self._hash = self.record.hash
        return len(self.outcomes)

    async def decide_where_quick(self, commands: Sequence[Pending], threads: Threads) -> tuple[int, bool]:
        """Decide commands, on the event loop if they are few and quick; return how many, and whether they were."""
        db = self._projections[0].db
        if len(commands) <= QUICK_COMMANDS_MAX and all(self._domain.is_quick(db, one.command) for one in commands):
            with suppress(NotQuick):
                return self.decide(commands, quick=True), True
        return await threads.run(self.decide, commands), False

    def _begin(self) -> None:
        for projection in self._projections:
            projection.db.execute("BEGIN IMMEDIATE")
        self._open = True
        self._now = max(self._clock(), self._projections[0].time)  # this partition's clock never goes back
        self._encoded, self.outcomes, self.facts = [], [], []

    def _decide_all(self, commands: Sequence[Pending], record_id: str, *, careful: bool) -> None:
        deadline = time.monotonic() + BATCH_SECONDS_MAX
        size = 0
        for place, pending in enumerate(commands):
            first = len(self._encoded)
            if place in self._settled:
                self.outcomes.append(self._settled[place])
            else:
                self._decide_one(pending, record_id, place, careful=careful)
            for encoded in self._encoded[first:]:
                size += len(encoded)
            if size >= BATCH_BYTES_MAX or time.monotonic() > deadline:
                return

    def _decide_one(self, pending: Pending, record_id: str, place: int, *, careful: bool) -> None:
        if pending.command_id and (earlier := self._earlier(pending)):
            self.outcomes.append(earlier)
            return
        first = len(self._encoded)
        if pending.expected is not None and (first or pending.expected != self.before.position):
            self.outcomes.append(self._moved_on(pending.expected))
            return
        if careful:
            self._execute("SAVEPOINT command")
        try:
            decision = self._decide(self._projections[0].db, pending.command, self._now)
            facts = self._apply(decision, pending, record_id)
        except (NotQuick, apsw.FullError, apsw.IOError):
            raise  # time is over, or the disk failed, not the command; SQLite may have ended the transaction by itself
        except Exception as error:
            if not self._projections[0].db.in_transaction:
                self._settled[place] = self._explain(error, pending)
                raise _TransactionLost from error
            # A refusal comes from `decide`, which undoes what it wrote before it refuses.
            if not careful and not isinstance(error, Refusal):
                raise _FailedHalfWay from error
            if careful:
                self._undo_one(first)
            self.outcomes.append(self._explain(error, pending))
            return
        if careful:
            self._execute("RELEASE command")
        self.facts.extend(facts)
        self.outcomes.append((None, decision.answer))

    def _earlier(self, pending: Pending) -> Outcome | None:
        """Return the answer that the command got before under its id."""
        assert pending.command_id is not None
        found = self._projections[0].remembered(pending.command_id)
        if found is None:
            return None
        position, receipt = found
        if receipt.fingerprint != _fingerprint(pending.command):
            return Refusal(UNPROCESSABLE.problem("this Idempotency-Key was used for another request"))
        return position, receipt.answer

    def _moved_on(self, expected: Position) -> Refusal:
        now = self._next if self._encoded else self.before.position
        return Refusal(PRECONDITION_FAILED.problem(f"{self._partition} is at {now}, not at {expected}"))

    def _apply(self, decision: Decision, pending: Pending, record_id: str) -> Sequence[Fact]:
        """Encode and fold the facts of a decision; return those that are kept."""
        facts = () if decision.void and not pending.command_id else decision.facts
        receipt = None
        if pending.command_id:
            receipt = Receipt(pending.command_id, _fingerprint(pending.command), decision.answer)
        events: list[Event] = []
        encoded: list[bytes] = []
        for fact in facts:
            event_id = f"{record_id}/{len(self._encoded) + len(encoded)}"
            events.append(Event(event_id, self._source, self._now, pending.principal, fact, receipt))
            encoded.append(encode_event(events[-1]))
            receipt = None  # the first event carries it
        if (size := sum(map(len, encoded))) > COMMAND_BYTES_MAX:
            raise _TooLarge(f"its events take {size} bytes, at most {COMMAND_BYTES_MAX} are possible")
        self._encoded += encoded
        for projection in self._projections if events and not decision.applied else ():
            projection.apply(events)
        if events and events[0].receipt:  # a command without facts can simply be decided again
            self._projections[0].remember(events[0].receipt, self._next, self._now)
        return facts

    def _undo_one(self, first: int) -> None:
        del self._encoded[first:]
        self._execute("ROLLBACK TO command")
        self._execute("RELEASE command")

    def _execute(self, statement: str) -> None:
        for projection in self._projections:
            projection.db.execute(statement)

    def _explain(self, error: Exception, pending: Pending) -> Exception:
        if isinstance(error, Refusal):
            return error
        if isinstance(error, _TooLarge):
            return Refusal(BODY_TOO_LARGE.problem(str(error)))
        name = type(pending.command).__name__
        log.error("command failed", command=name, partition=str(self._partition), exc_info=error)
        return Refusal(INTERNAL.problem(f"{name} failed; the node's log has the cause"))

    def commit(self, cursor: Cursor) -> None:
        """Make it visible, the deciding projection last."""
        for projection in reversed(self._projections):
            projection.advance(cursor, self._now)
            projection.db.execute("COMMIT")
        self._open = False

    def rollback(self) -> None:
        """Undo everything; may be called again."""
        if self._open:
            self._open = False
            for projection in self._projections:
                if projection.db.in_transaction:
                    projection.db.execute("ROLLBACK")


def _fingerprint(command: Command) -> str:
    # Without defaults, so that a field that a later version adds does not make a retry look like another command.
    said = command.model_dump_json(exclude_defaults=True)
    return blake3(f"{type(command).__name__} {said}".encode()).hexdigest(8)
