"""What was read of one stream and is not archived yet, by partition."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from events.read import completes
from events.record import Message, Record, from_messages
from schemas.ids import PartitionId


class Found(NamedTuple):
    """A record as it came, not yet compared with the one before it, and the sequence of its last message."""

    record: Record
    sequence: int


@dataclass(slots=True)
class Pending:
    """The records of one partition that wait, in order, and the parts of one that is not whole yet."""

    first_sequence: int
    found: list[Found] = field(default_factory=list)
    parts: list[Message] = field(default_factory=list)
    size_bytes: int = 0


class Backlog:
    """Takes messages in the order of the stream; `waiting` gives them back by partition.

    `mark` is how far the stream needs never be read again.
    """

    def __init__(self, sequence: int) -> None:
        self._pending: dict[PartitionId, Pending] = {}
        self._held: dict[PartitionId, int] = {}
        self.sequence = sequence
        self.size_bytes = 0
        self.records = 0
        self.oldest = ""  # when the server stored the oldest message that waits; empty: none does

    @property
    def mark(self) -> int:
        """The sequence up to which everything is archived."""
        waiting = [pending.first_sequence for pending in self._pending.values()]
        return min([*waiting, *self._held.values(), self.sequence + 1]) - 1

    def take(self, message: Message) -> None:
        """Add the next message of the stream; raise `MalformedRecord` or `InvalidId` if it is no record."""
        self.sequence = message.sequence
        partition = PartitionId.parse(message.subject)
        if partition in self._held:
            return
        pending = self._pending.get(partition)
        if pending is None:
            pending = self._pending[partition] = Pending(message.sequence)
        self.oldest = self.oldest or message.headers.get("Nats-Time-Stamp", "")
        pending.size_bytes += len(message.payload)
        self.size_bytes += len(message.payload)
        if completes(message, pending.parts):
            pending.found.append(Found(from_messages(pending.parts), message.sequence))
            pending.parts.clear()
            self.records += 1

    def largest(self) -> int:
        """Return the bytes that wait of the partition with most of them."""
        return max((pending.size_bytes for pending in self._pending.values()), default=0)

    def waiting(self) -> Iterator[tuple[PartitionId, list[Found]]]:
        """Yield the partitions that have whole records, with these."""
        for partition, pending in list(self._pending.items()):
            if pending.found:
                yield partition, pending.found

    def done(self, partition: PartitionId) -> None:
        """Forget the whole records of a partition: they are archived."""
        pending = self._pending.pop(partition)
        parts_bytes = sum(len(part.payload) for part in pending.parts)
        self.records -= len(pending.found)
        self.size_bytes -= pending.size_bytes - parts_bytes
        if pending.parts:
            self._pending[partition] = Pending(pending.parts[0].sequence, [], pending.parts, parts_bytes)
        if not self._pending:
            self.oldest = ""

    def hold(self, partition: PartitionId) -> None:
        """Keep nothing of a partition in memory, now and later; the mark stays before its first record of that."""
        pending = self._pending.pop(partition, None)
        self._held.setdefault(partition, pending.first_sequence if pending else self.sequence + 1)
        if pending:
            self.records -= len(pending.found)
            self.size_bytes -= pending.size_bytes
        if not self._pending:
            self.oldest = ""

    @property
    def held(self) -> set[PartitionId]:
        """The partitions of which nothing is kept."""
        return set(self._held)
