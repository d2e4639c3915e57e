"""A message on its way to subscribers, and what is made of it once for all of them."""

from collections.abc import Callable
from typing import TypeAlias

Encode: TypeAlias = Callable[["Message"], bytes]
"""What goes over the wire for one message."""
OVERHEAD_BYTES = 600
_COPIES = 3  # the payload, and what it is encoded to


class Message:
    """One message of a document. Not changed, but for what is kept of its encodings."""

    __slots__ = ("_made", "content_type", "created_at", "db_id", "id", "payload", "producer", "topic")

    def __init__(
        self, db_id: str, id: int, topic: str, payload: bytes, content_type: str, producer: str | None, created_at: str
    ) -> None:
        self.db_id = db_id
        self.id = id
        self.topic = topic
        self.payload = payload
        self.content_type = content_type
        self.producer = producer
        self.created_at = created_at
        self._made: list[tuple[Encode, bytes]] = []

    def encoded(self, encode: Encode) -> bytes:
        """Return what `encode` makes of it; it is called once."""
        for known, made in self._made:
            if known is encode:
                return made
        made = encode(self)
        self._made.append((encode, made))
        return made

    @property
    def weight(self) -> int:
        """How much memory it may take, in bytes, with its encodings."""
        return OVERHEAD_BYTES + _COPIES * len(self.payload)
