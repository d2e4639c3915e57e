"""The subscribers of all documents of a node."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from prometheus_client import Counter, Gauge

from projectors.document.domain import document_partition
from projectors.document.messages import queries
from projectors.document.messages.hub import Hub
from projectors.document.messages.message import Message
from projectors.document.messages.ring import RING_BYTES, RING_MESSAGES, Ring
from projectors.document.messages.subscription import Subscription
from projectors.document.reads.reading import DocumentReaders
from projectors.outcome import Committed
from projectors.partitions import Partitions
from schemas.control import DocumentDeleted
from schemas.problems import DOCUMENT_DELETED, PARTITION_STOPPED, TOO_MANY_REQUESTS, UNAVAILABLE, Problem, Refusal

LAST_VALUES = 200  # read at a time

SUBSCRIBERS = Gauge("forge_message_subscribers", "Streams that follow the messages of a document.")
DELIVERED = Counter("forge_messages_delivered_total", "Messages handed to subscribers.")
LAGGED = Counter("forge_message_subscribers_lagged_total", "Times a subscriber was told it had lagged.", ["reason"])


@dataclass(frozen=True, slots=True)
class LiveBounds:
    """How much may be followed, and what of it is kept in memory."""

    subscribers: int = 50_000
    """Streams; more is 503."""
    subscribers_per_document: int = 20_000
    """The same for one document; more is 429."""
    ring_messages: int = RING_MESSAGES
    """The newest messages of a document that is followed."""
    ring_bytes: int = RING_BYTES
    """Memory that they may take."""
    rings_bytes: int = 256 << 20
    """Memory of all documents; the one that grows beyond it gives way."""


class Messages:
    """Who follows the messages of which document. `subscribe` from the event loop; `close` when done."""

    def __init__(self, partitions: Partitions, readers: DocumentReaders, bounds: LiveBounds = LiveBounds()) -> None:
        self._partitions = partitions
        self._readers = readers
        self._bounds = bounds
        self._hubs: dict[str, Hub] = {}
        self._subscribers = self._ring_bytes = 0
        partitions.listen(self._committed)

    async def subscribe(
        self, db_id: str, filters: Sequence[str], *, since: int | None = None, tail: int = 0
    ) -> Subscription:
        """Follow the messages that valid filters pick (none: all) after an id, or from now on with the last before.

        Whatever is published once this has returned will come. Raise `Refusal` (429, 503) past a bound.
        """
        self._require_room(db_id)
        hub = self._hubs.get(db_id)
        if hub is None:
            ring = Ring(self._bounds.ring_messages, self._bounds.ring_bytes)
            hub = self._hubs[db_id] = Hub(db_id, self._readers, ring, look=self._look, left=self._left)
        subscription = Subscription(hub, hub.join(filters), since=since, tail=tail)
        hub.add(subscription)
        self._subscribers += 1
        SUBSCRIBERS.inc()
        try:
            await subscription.begin()
        except BaseException:
            subscription.close()
            raise
        return subscription

    async def last_values(
        self, db_id: str, filters: Sequence[str], after: str = "", limit: int = LAST_VALUES
    ) -> tuple[Sequence[Message], str | None]:
        """Return some last values, by topic, and the topic to go on after, None if there are no more.

        There may be none although there are more. Raise `Refusal`.
        """
        work = partial(queries.retained, db_id=db_id, after=after, filters=filters, limit=limit)
        found, _ = await self._readers.run(db_id, work)
        return found

    def _require_room(self, db_id: str) -> None:
        hub = self._hubs.get(db_id)
        if hub is not None and hub.subscribers >= self._bounds.subscribers_per_document:
            why = f"{hub.subscribers} streams follow the messages of {db_id} already"
            raise Refusal(TOO_MANY_REQUESTS.problem(why, retry_after_s=5))
        if self._subscribers >= self._bounds.subscribers:
            why = f"{self._subscribers} streams follow messages already"
            raise Refusal(UNAVAILABLE.problem(why, retry_after_s=5))

    def _left(self, hub: Hub) -> None:
        self._subscribers -= 1
        SUBSCRIBERS.dec()
        if not hub.subscribers:
            hub.close()
            self._ring_bytes -= hub.counted_bytes
            del self._hubs[hub.db_id]

    def _look(self, hub: Hub) -> None:
        """Notice a partition that has stopped: of that there is no news."""
        partition = self._partitions.find(document_partition(hub.db_id))
        if partition is not None and partition.damaged:
            hub.end(PARTITION_STOPPED.problem(partition.stopped_because or f"{partition.id} is stopped"))

    def _committed(self, committed: Committed) -> None:
        match committed.partition.domain:
            case "doc" if hub := self._hubs.get(committed.partition.key):
                self._heard(hub, committed.facts)
            case "control":
                for fact in committed.facts:
                    if isinstance(fact, DocumentDeleted):
                        self.end(fact.db_id, DOCUMENT_DELETED.problem(f"{fact.db_id} was deleted"))

    def _heard(self, hub: Hub, facts: Sequence[object]) -> None:
        hub.heard(facts)
        others_bytes = self._ring_bytes - hub.counted_bytes
        if others_bytes + hub.ring.size > self._bounds.rings_bytes:
            hub.ring.shrink(max(0, self._bounds.rings_bytes - others_bytes))
        hub.counted_bytes = hub.ring.size
        self._ring_bytes = others_bytes + hub.counted_bytes

    def end(self, db_id: str, problem: Problem) -> None:
        """Tell all subscribers of a document that no more comes, and why."""
        if hub := self._hubs.get(db_id):
            hub.end(problem)
