"""Messages as they are read from a document: windows of ids, the last ones, and the last values."""

from collections.abc import Sequence
from heapq import merge, nlargest
from itertools import chain, islice
from typing import NamedTuple

import apsw

from projectors.document.messages.message import Message
from projectors.document.reads.reader import OURS as _OURS
from projectors.document.reads.reader import Reader
from schemas.topics import is_literal, matches_any
from schemas.values import SqlValue

WINDOW_IDS = 4096  # looked at in one turn
WINDOW_MESSAGES = 512
WINDOW_BYTES = 1 << 20  # of payload; one message more is always read
TAIL_IDS = 16_384
_ROW = "id, topic, payload, content_type, producer, created_at"


class Window(NamedTuple):
    """The messages that filters pick after some id, up to `upto`. Of what follows the id, `lowest` is what is kept."""

    messages: Sequence[Message]
    upto: int
    newest: int
    lowest: int


class _Wants(dict[str, bool]):
    """Whether filters pick a topic: found out once for each."""

    def __init__(self, filters: Sequence[str]) -> None:
        super().__init__()
        self._filters = filters

    def __missing__(self, topic: str) -> bool:
        wanted = self[topic] = matches_any(self._filters, topic)
        return wanted


class Tail(NamedTuple):
    """How far back the last messages have been looked for: after which id they begin, and how many are missing."""

    after: int
    missing: int


def newest(reader: Reader) -> int:
    """Return the id of the newest message that ever was, 0 if there never was one."""
    return _extent(reader.db)[1]


def window(reader: Reader, db_id: str, after: int, filters: Sequence[str]) -> Window:
    """Read on after an id; without filters everything is picked."""
    db = reader.db
    lowest, last = _extent(db)
    begin = max(after, lowest - 1)
    if begin >= last:
        return Window((), max(after, last), last, lowest)
    ids, upto = _picked(db, begin, last, filters)
    messages, size = list[Message](), 0
    for id_ in ids:
        message = _message(db_id, _row(db, id_))
        messages.append(message)
        size += len(message.payload)
        if size >= WINDOW_BYTES:
            upto = id_
            break
    return Window(messages, upto, last, lowest)


def tail(reader: Reader, before: int, missing: int, filters: Sequence[str]) -> Tail:
    """Look further back than `before` for the last `missing` messages that filters pick, up to some bound."""
    db = reader.db
    lowest, _ = _extent(db)
    if not filters:
        return Tail(max(lowest - 1, before - 1 - missing), 0)
    if all(map(is_literal, filters)):
        query = "SELECT id FROM main.messages WHERE topic = ? AND id < ? ORDER BY id DESC LIMIT ?"
        found = chain.from_iterable(_ids(db, query, (topic, before, missing)) for topic in set(filters))
        first = nlargest(missing, found)
        return Tail(first[-1] - 1 if first else before - 1, 0)
    query = "SELECT id, topic FROM main.messages WHERE id < ? ORDER BY id DESC LIMIT ?"
    after = before - 1
    wants = _Wants(filters)
    for id_, topic in db.execute(query, (before, TAIL_IDS), prepare_flags=_OURS):
        if wants[str(topic)]:
            after, missing = int(str(id_)) - 1, missing - 1
            if not missing:
                return Tail(after, 0)
    looked = max(lowest, before - TAIL_IDS)
    return Tail(looked - 1, missing if looked > lowest else 0)


def retained(
    reader: Reader, db_id: str, after: str, filters: Sequence[str], limit: int
) -> tuple[list[Message], str | None]:
    """Return last values by topic after one, and the topic to go on after, None if there are no more."""
    db = reader.db
    if not _has_tables(db):
        return [], None
    topics = "SELECT topic FROM main.retained_messages WHERE topic > ? ORDER BY topic"
    query = f"SELECT {_ROW} FROM main.retained_messages WHERE topic = ?"  # a payload that nobody wants is not read
    found, size = list[Message](), 0
    for looked, (value,) in enumerate(db.execute(topics, (after,), prepare_flags=_OURS), start=1):
        topic = str(value)
        if matches_any(filters, topic):
            found.append(_message(db_id, next(iter(db.execute(query, (topic,), prepare_flags=_OURS)))))
            size += len(found[-1].payload)
        if len(found) >= limit or size >= WINDOW_BYTES or looked == WINDOW_IDS:
            return found, topic
    return found, None


def _picked(db: apsw.Connection, begin: int, last: int, filters: Sequence[str]) -> tuple[Sequence[int], int]:
    """Return ids after `begin` that filters pick, and up to where that is all of them."""
    if filters and all(map(is_literal, filters)):
        query = "SELECT id FROM main.messages WHERE topic = ? AND id > ? ORDER BY id LIMIT ?"
        per_topic = [_ids(db, query, (topic, begin, WINDOW_MESSAGES)) for topic in set(filters)]
        ids = list(islice(merge(*per_topic), WINDOW_MESSAGES))
        return ids, ids[-1] if len(ids) == WINDOW_MESSAGES else last
    query = "SELECT id, topic FROM main.messages WHERE id > ? ORDER BY id LIMIT ?"
    ids, upto, seen = [], begin, 0
    wants = _Wants(filters)
    for id_, topic in db.execute(query, (begin, WINDOW_IDS), prepare_flags=_OURS):
        upto, seen = int(str(id_)), seen + 1
        if wants[str(topic)]:
            ids.append(upto)
            if len(ids) == WINDOW_MESSAGES:
                return ids, upto
    return ids, upto if seen == WINDOW_IDS else last


def _extent(db: apsw.Connection) -> tuple[int, int]:
    """Return the id of the oldest message that is kept, of the next one if none is; and of the newest ever."""
    last = int(str(db.execute("SELECT last_message_id FROM main._forge_document", prepare_flags=_OURS).get))
    if not last or not _has_tables(db):
        return last + 1, last
    lowest = db.execute("SELECT min(id) FROM main.messages", prepare_flags=_OURS).get
    return (last + 1 if lowest is None else int(str(lowest))), last


def _has_tables(db: apsw.Connection) -> bool:
    return bool(db.execute("SELECT system_version FROM main._forge_document", prepare_flags=_OURS).get)


def _ids(db: apsw.Connection, query: str, arguments: tuple[SqlValue, ...]) -> list[int]:
    return [int(str(id_)) for (id_,) in db.execute(query, arguments, prepare_flags=_OURS)]


def _row(db: apsw.Connection, id_: int) -> tuple[SqlValue, ...]:
    query = f"SELECT {_ROW} FROM main.messages WHERE id = ?"
    row: tuple[SqlValue, ...] = next(iter(db.execute(query, (id_,), prepare_flags=_OURS)))
    return row


def _message(db_id: str, row: Sequence[SqlValue]) -> Message:
    id_, topic, payload, content_type, producer, created_at = row
    raw = payload if isinstance(payload, bytes) else str(payload).encode()
    said = None if producer is None else str(producer)
    return Message(db_id, int(str(id_)), str(topic), raw, str(content_type), said, str(created_at))
