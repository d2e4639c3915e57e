"""All watches of a node: who follows what, and the evaluations that commits ask for."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
from prometheus_client import Counter, Gauge

from projectors.document.domain import document_partition
from projectors.document.watches.evaluating import Asked, Evaluate, Evaluated
from projectors.document.watches.touches import tables_touched
from projectors.document.watches.watch import Encode, Shown, Subscription, Watch, watch_key
from projectors.document.watches.watched import WatchedDocument
from projectors.outcome import Committed
from projectors.partitions import Partitions
from schemas.control import DocumentDeleted
from schemas.document import Statement
from schemas.ids import Position
from schemas.problems import (
    DOCUMENT_DELETED,
    INTERNAL,
    PARTITION_STOPPED,
    TOO_MANY_REQUESTS,
    UNAVAILABLE,
    Problem,
    Refusal,
)

ATTEMPTS_MAX = 6
RETRY_S = 0.25  # doubled with every attempt
REMEMBERED_MAX = 1024  # documents that nobody watches now, so that who comes back need not be told everything again

EVALUATIONS = Counter("forge_watch_evaluations_total", "Queries run for watches.")
UPDATES = Counter("forge_watch_results_total", "Evaluations of watches that gave another result than before.")
WATCHES = Gauge("forge_watches", "Different queries that are watched.")
SUBSCRIBERS = Gauge("forge_watch_subscribers", "Streams that follow a watch.")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WatchBounds:
    """How much may be watched, and how much of the node that may take."""

    watches_per_document: int = 5000
    """Different queries; more is 429."""
    watches: int = 20_000
    """The same of all documents; more is 503."""
    subscribers: int = 50_000
    """Streams; more is 503."""
    result_bytes: int = 256 << 20
    """Newest results that are kept; a watch whose result does not fit any more ends with 503."""
    evaluations: int = 4
    """Threads that watches may keep busy at the same time."""
    evaluations_per_document: int = 2
    """The same for one document, so that it leaves some to others and to its other readers."""


class Watches:
    """The watches of a node. `subscribe` from the event loop; `close` when done."""

    def __init__(
        self, partitions: Partitions, evaluate: Evaluate, encode: Encode, bounds: WatchBounds = WatchBounds()
    ) -> None:
        self._partitions = partitions
        self._evaluate = evaluate
        self._encode = encode
        self._bounds = bounds
        self._documents: dict[str, WatchedDocument] = {}
        self._idle: dict[str, None] = {}  # documents that nobody watches now, the oldest first
        self._ready: dict[WatchedDocument, None] = {}
        self._work = asyncio.Event()
        self._watches = self._subscribers = self._result_bytes = 0
        partitions.listen(self._committed)
        self._tasks = [asyncio.create_task(self._run(), name=f"watches {n}") for n in range(bounds.evaluations)]

    def subscribe(
        self, db_id: str, statement: Statement, *, max_rows: int | None = None, last_seen: Position | None = None
    ) -> Subscription:
        """Follow a query from now on; `last_seen` is where the follower stood when it was here before.

        Every commit from now on is heard. The first evaluation has not begun. Raise `Refusal` (429, 503) past a bound.
        """
        if self._subscribers >= self._bounds.subscribers:
            raise Refusal(UNAVAILABLE.problem(f"{self._subscribers} streams follow watches already", retry_after_s=5))
        document = self._document(db_id)
        key = watch_key(statement, max_rows)
        watch = document.watches.get(key)
        if watch is None:
            self._require_room(document)
            watch = document.add(key, statement)
            self._watches += 1
            WATCHES.inc()
            self._offer(document)
        self._idle.pop(db_id, None)
        subscription = Subscription(document, watch, last_seen)
        watch.subscriptions.add(subscription)
        self._subscribers += 1
        SUBSCRIBERS.inc()
        self._look(document)
        return subscription

    def _document(self, db_id: str) -> WatchedDocument:
        document = self._documents.get(db_id)
        if document is None:
            document = self._documents[db_id] = WatchedDocument(db_id, self._encode, self._look, self._leave)
            self._remember(db_id)
        return document

    def _remember(self, db_id: str) -> None:
        """Keep what is known of a document that nobody watches, in the place of the oldest such."""
        self._idle[db_id] = None
        while len(self._idle) > REMEMBERED_MAX:
            oldest = next(iter(self._idle))
            del self._idle[oldest], self._documents[oldest]

    def _require_room(self, document: WatchedDocument) -> None:
        if len(document.watches) >= self._bounds.watches_per_document:
            detail = f"{len(document.watches)} different queries of {document.db_id} are watched already"
            raise Refusal(TOO_MANY_REQUESTS.problem(detail, fix="Watch fewer different queries.", retry_after_s=5))
        if self._watches >= self._bounds.watches or self._result_bytes >= self._bounds.result_bytes:
            detail = f"{self._watches} watches with {self._result_bytes} bytes of results are open already"
            raise Refusal(UNAVAILABLE.problem(detail, retry_after_s=5))

    def end(self, db_id: str, problem: Problem) -> None:
        """End all watches of a document: their followers are told why. What was known of it is forgotten."""
        document = self._documents.get(db_id)
        if document is None:
            return
        for watch in list(document.watches.values()):
            self._end(document, watch, problem)
        document.touches = None

    def _end(self, document: WatchedDocument, watch: Watch, problem: Problem) -> None:
        for subscription in list(watch.subscriptions):
            subscription.end(problem)
            self._leave(document, subscription)

    def _leave(self, document: WatchedDocument, subscription: Subscription) -> None:
        watch = subscription.watch
        if subscription not in watch.subscriptions:
            return
        watch.subscriptions.remove(subscription)
        self._subscribers -= 1
        SUBSCRIBERS.dec()
        if watch.subscriptions:
            return
        document.remove(watch)
        self._keep(watch, None)
        self._watches -= 1
        WATCHES.dec()
        if not document.watches:
            self._remember(document.db_id)

    def _keep(self, watch: Watch, shown: Shown | None) -> None:
        """Put another result in the place of a watch's newest."""
        self._result_bytes -= len(watch.shown.body) if watch.shown else 0
        self._result_bytes += len(shown.body) if shown else 0
        watch.shown = shown

    def _committed(self, committed: Committed) -> None:
        match committed.partition.domain:
            case "doc" if document := self._documents.get(committed.partition.key):
                self._heard(document, committed.position, tables_touched(committed.facts))
            case "control":
                for fact in committed.facts:
                    if isinstance(fact, DocumentDeleted):
                        self.end(fact.db_id, DOCUMENT_DELETED.problem(f"{fact.db_id} was deleted"))

    def _heard(self, document: WatchedDocument, position: Position, tables: frozenset[str] | None) -> None:
        document.heard(position, tables)
        self._offer(document)

    def _look(self, document: WatchedDocument) -> None:
        """Notice what no news told: records that were folded when the partition was opened, and a stopped one."""
        partition = self._partitions.find(document_partition(document.db_id))
        if partition is None:
            return  # closed for idleness: nothing can change without it
        if partition.damaged:
            problem = PARTITION_STOPPED.problem(partition.stopped_because or f"{partition.id} is stopped")
            self.end(document.db_id, problem)
        elif partition.position and document.touches and partition.position > document.touches.heard:
            self._heard(document, partition.position, None)

    def _offer(self, document: WatchedDocument) -> None:
        """Let a document have a turn if it has something to evaluate and not too much of that is running."""
        if document.due and document.running < self._bounds.evaluations_per_document:
            self._ready.setdefault(document)
            self._work.set()

    async def _run(self) -> None:
        """Evaluate for ever; documents take turns."""
        while True:
            while not self._ready:
                self._work.clear()
                await self._work.wait()
            document = next(iter(self._ready))
            del self._ready[document]
            if not (watches := document.take()):
                continue
            document.running += 1
            self._offer(document)
            try:
                await self._evaluate_all(document, watches)
            except Refusal as refusal:
                self._fail_all(document, watches, refusal)
            except Exception as error:
                log.exception("watch failed", document=document.db_id, exc_info=error)
                self._fail_all(document, watches, Refusal(INTERNAL.problem("the query failed inside the node")))
            finally:
                document.running -= 1
                self._offer(document)

    async def _evaluate_all(self, document: WatchedDocument, watches: Sequence[Watch]) -> None:
        asked = [Asked(w.statement, w.key[2], w.shown.hash if w.shown else "") for w in watches]
        outcomes, position = await self._evaluate(document.db_id, asked)
        EVALUATIONS.inc(len(outcomes))
        for watch, outcome in zip(watches, outcomes, strict=False):
            if not watch.subscriptions:
                continue  # they have left in the meantime
            if isinstance(outcome, Refusal):
                self._fail(document, watch, outcome)
            else:
                self._show(document, watch, outcome, position)
        document.due.update(dict.fromkeys(watch for watch in watches[len(outcomes) :] if watch.subscriptions))

    def _show(self, document: WatchedDocument, watch: Watch, result: Evaluated, position: Position) -> None:
        watch.attempts = 0
        watch.quick = result.quick
        if watch.shown is None or watch.shown.hash != result.hash:
            self._keep(watch, Shown(position, result.hash, result.body))
            UPDATES.inc()
            if self._result_bytes > self._bounds.result_bytes:
                detail = f"the results of all watches take more than {self._bounds.result_bytes} bytes"
                self._end(document, watch, UNAVAILABLE.problem(detail, retry_after_s=5))
                return
        document.evaluated(watch, position, result.tables)
        watch.wake()

    def _fail_all(self, document: WatchedDocument, watches: Sequence[Watch], refusal: Refusal) -> None:
        for watch in watches:
            if watch.subscriptions:
                self._fail(document, watch, refusal)

    def _fail(self, document: WatchedDocument, watch: Watch, refusal: Refusal) -> None:
        """Try again soon if the node is busy or cannot read now; else the watch ends."""
        problem = refusal.problem
        passing = problem.status == UNAVAILABLE.status and problem.type != PARTITION_STOPPED.uri
        if not passing or watch.attempts >= ATTEMPTS_MAX:
            self._end(document, watch, problem)
            return
        delay_s = RETRY_S * 2**watch.attempts
        watch.attempts += 1
        asyncio.get_running_loop().call_later(delay_s, self._again, document, watch)

    def _again(self, document: WatchedDocument, watch: Watch) -> None:
        if watch.subscriptions:
            document.due[watch] = None
            self._offer(document)

    async def close(self) -> None:
        """Stop evaluating; running evaluations end first. Streams end with the server that sends them."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
