"""How messages are published and pruned: decided against the document."""

import apsw

from projectors.document.writing import write
from projectors.domain import Decision
from schemas.instants import later
from schemas.messages import (
    PRUNED_MAX,
    MessagesPruned,
    MessagesPublished,
    NewMessage,
    PruneMessages,
    PublishedMessage,
    PublishMessages,
)


def publish(db: apsw.Connection, command: PublishMessages, now: str) -> Decision:
    """Publish what is not there yet; the answer names all, also those that are."""
    last = int(str(db.execute("SELECT last_message_id FROM _forge_document").get))
    first, kept = last + 1, list[PublishedMessage]()
    answer: list[dict[str, object]] = []
    here: dict[tuple[str, str], int] = {}
    for message in command.messages:
        found = _duplicate(db, message, here)
        if found is None:
            id_, at = first + len(kept), now
            kept.append(PublishedMessage(**vars(message)))
            if message.dedupe_key is not None:
                here[message.topic, message.dedupe_key] = id_
        else:
            id_, at = found[0], found[1] or now
        answer.append(
            {
                "id": id_,
                "topic": message.topic,
                "content_type": message.content_type,
                "size_bytes": len(message.payload),
                "created_at": at,
                "duplicate": found is not None,
            }
        )
    facts = [write(db, MessagesPublished(first_id=first, at=now, messages=tuple(kept)))] if kept else []
    return Decision(facts, {"messages": answer}, applied=True)


def _duplicate(
    db: apsw.Connection, message: NewMessage, here: dict[tuple[str, str], int]
) -> tuple[int, str | None] | None:
    """Return id and time of the message that was published with this key before, None if there is none."""
    if message.dedupe_key is None:
        return None
    if (id_ := here.get((message.topic, message.dedupe_key))) is not None:
        return id_, None
    query = "SELECT id, created_at FROM main.messages WHERE topic = ? AND dedupe_key = ? LIMIT 1"
    row = db.execute(query, (message.topic, message.dedupe_key)).fetchone()
    return None if row is None else (int(str(row[0])), str(row[1]))


def prune(db: apsw.Connection, command: PruneMessages, now: str) -> Decision:
    """Remove the oldest messages that a bound does not allow any more; the answer says how old the rest is."""
    first = db.execute("SELECT min(id) FROM main.messages").get
    through = _through(db, command, now) if first is not None else 0
    if first is None or through < int(str(first)):
        return Decision(answer={"pruned": 0, "more": False, "oldest": _oldest(db)})
    lowest = int(str(first))
    last = min(through, lowest + PRUNED_MAX - 1)
    size = db.execute("SELECT sum(octet_length(payload)) FROM main.messages WHERE id <= ?", (last,)).get
    pruned = write(db, MessagesPruned(first_id=lowest, last_id=last, size_bytes=int(str(size or 0))))
    answer = {"pruned": last - lowest + 1, "more": last < through, "oldest": _oldest(db)}
    return Decision([pruned], answer, applied=True)


def _oldest(db: apsw.Connection) -> str | None:
    """Return when the oldest message that is kept was published, None if none is."""
    row = db.execute("SELECT created_at FROM main.messages ORDER BY id LIMIT 1").fetchone()
    return None if row is None else str(row[0])


def _through(db: apsw.Connection, command: PruneMessages, now: str) -> int:
    """Return the id of the newest message that has to go, or a bit less if that is a long way off."""
    newest, total = map(int, db.execute("SELECT last_message_id, message_bytes FROM _forge_document").get)
    through = 0
    if command.max_count is not None:
        through = max(through, newest - command.max_count)
    window = (PRUNED_MAX + 1,)
    if command.max_age_s is not None:
        oldest = later(now, -command.max_age_s)
        aged = "SELECT max(id) FROM (SELECT id, created_at FROM main.messages ORDER BY id LIMIT ?) WHERE created_at < ?"
        through = max(through, int(str(db.execute(aged, (*window, oldest)).get or 0)))
    if command.max_bytes is not None and total > command.max_bytes:
        left = total
        sizes = "SELECT id, octet_length(payload) FROM main.messages ORDER BY id LIMIT ?"
        for id_, size in db.execute(sizes, window):
            if left <= command.max_bytes:
                break
            through, left = max(through, int(str(id_))), left - int(str(size))
    return through
