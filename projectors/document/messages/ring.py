"""The newest messages of a document, without gaps, within a bound."""

from collections.abc import Sequence

from projectors.document.messages.message import Message

RING_MESSAGES = 4096
RING_BYTES = 64 << 20  # with what is made of them; a batch of the largest size fits


class Ring:
    """The messages with the ids `base + 1` to `end`. Before something is known both are None."""

    __slots__ = ("_bytes_max", "_count_max", "_items", "base", "began", "end", "size")

    def __init__(self, count_max: int = RING_MESSAGES, bytes_max: int = RING_BYTES) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._items: list[Message] = []
        self.size = 0
        self.base: int | None = None
        self.end: int | None = None
        self.began: int | None = None  # where it began without gaps; `base` moves on from there

    def begin(self, newest: int) -> None:
        """Forget everything: `newest` is the id of the newest message of the document, which is not in here."""
        self._items.clear()
        self.size = 0
        self.base = self.end = self.began = newest

    def forget(self) -> None:
        """Forget everything: nobody knows which message is the newest."""
        self.begin(0)
        self.base = self.end = self.began = None

    def add(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Take messages in the order of their ids; return those that are new. After a gap it begins anew."""
        if self.end is not None:
            messages = [one for one in messages if one.id > self.end]
        if not messages:
            return messages
        if self.end is None or messages[0].id != self.end + 1:
            self.begin(messages[0].id - 1)
        self._items += messages
        self.end = messages[-1].id
        self.size += sum(one.weight for one in messages)
        self.shrink(self._bytes_max)
        return messages

    def shrink(self, bytes_max: int) -> None:
        """Forget the oldest until the rest keeps the bounds."""
        gone = max(0, len(self._items) - self._count_max)
        self.size -= sum(one.weight for one in self._items[:gone])
        while self.size > bytes_max:
            self.size -= self._items[gone].weight
            gone += 1
        if gone:
            assert self.base is not None
            del self._items[:gone]
            self.base += gone

    def after(self, id: int) -> Sequence[Message]:
        """Return the messages after one that is not older than `base`."""
        assert self.base is not None
        return self._items[id - self.base :]
