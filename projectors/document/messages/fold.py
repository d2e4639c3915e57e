"""The fold of messages: rows of `messages` and `retained_messages`."""

from collections.abc import Sequence

from projectors.document.rows import Rows, stored
from schemas.messages import MessagesPruned, MessagesPublished, PublishedMessage
from schemas.values import SqlValue

_COLUMNS = ("id", "topic", "payload", "content_type", "producer", "dedupe_key", "created_at")
_RETAINED = ("topic", "id", "payload", "content_type", "producer", "created_at")


def published(fact: MessagesPublished) -> list[Rows]:
    """Return what publishing does: a row each, and the last value of each topic that has one to retain."""
    values = [_row(fact.first_id + at, one, fact.at) for at, one in enumerate(fact.messages)]
    rows = [Rows("insert", "messages", _COLUMNS, values)]
    if any(one.retain for one in fact.messages):
        rows += _retained(fact)
    return rows


def _row(id_: int, one: PublishedMessage, at: str) -> tuple[SqlValue, ...]:
    payload = stored(one.payload, one.content_type)
    return id_, one.topic, payload, one.content_type, one.producer, one.dedupe_key, at


def _retained(fact: MessagesPublished) -> Sequence[Rows]:
    """An empty payload takes the last value away, as in MQTT."""
    last: dict[str, tuple[int, PublishedMessage]] = {
        one.topic: (fact.first_id + at, one) for at, one in enumerate(fact.messages) if one.retain
    }
    kept = [
        (topic, id_, stored(one.payload, one.content_type), one.content_type, one.producer, fact.at)
        for topic, (id_, one) in last.items()
        if one.payload
    ]
    gone = [(topic,) for topic, (_, one) in last.items() if not one.payload]
    put = [Rows("put", "retained_messages", _RETAINED, kept)] if kept else []
    return [*put, *([Rows("delete", "retained_messages", ("topic",), gone)] if gone else [])]


def pruned(fact: MessagesPruned) -> list[Rows]:
    """Return what pruning does; a last value that is retained stays."""
    return [Rows("delete", "messages", ("id",), [(id_,) for id_ in range(fact.first_id, fact.last_id + 1)])]
