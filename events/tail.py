"""The newest messages of a stream that this process appended itself: a follower here need not read them back."""

from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from events.record import Message

TAIL_BYTES_MAX = 4 << 20
MESSAGE_BYTES = 1024  # what a message takes in memory beside its payload, about


class Tail:
    """Messages that stand one after the other in the stream, each of them acknowledged, until they are taken.

    Only what follows without a gap is kept, and of that the newest `bytes_max`: whoever misses something reads it from
    the server. `heard` is told how many bytes came.
    """

    def __init__(self, heard: Callable[[int], None], bytes_max: int = TAIL_BYTES_MAX) -> None:
        self._heard = heard
        self._bytes_max = bytes_max
        self._messages: deque[Message] = deque()
        self.size_bytes = 0
        self._next = 0
        self._server = 0

    def add(self, messages: Sequence[Message], sequence: int, server: int) -> None:
        """Add the messages of a record, of which the last stands at `sequence`, and wake who follows.

        `server` changes when it may be another one, whose numbers say nothing of what is here.
        """
        first = sequence - len(messages) + 1
        if (first, server) != (self._next, self._server):
            self.clear()
        stamp = {"Nats-Time-Stamp": datetime.now(UTC).isoformat()}
        for number, message in enumerate(messages, start=first):
            self._messages.append(Message(message.subject, message.headers | stamp, message.payload, number))
        came_bytes = sum(map(_taken, messages))
        self.size_bytes += came_bytes
        self._next, self._server = sequence + 1, server
        while self.size_bytes > self._bytes_max:
            self._drop()
        self._heard(came_bytes)

    def take(self, sequence: int) -> list[Message]:
        """Return all messages from `sequence` on and forget them; nothing if the one at `sequence` is not here."""
        while self._messages and self._messages[0].sequence < sequence:
            self._drop()  # they were read from the server
        if not self._messages or self._messages[0].sequence != sequence:
            return []
        taken = list(self._messages)
        self.clear()
        return taken

    def clear(self) -> None:
        """Forget everything."""
        self._messages.clear()
        self.size_bytes = 0

    def _drop(self) -> None:
        self.size_bytes -= _taken(self._messages.popleft())


def _taken(message: Message) -> int:
    return len(message.payload) + MESSAGE_BYTES
