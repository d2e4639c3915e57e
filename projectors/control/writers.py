"""Which nodes have written here, one after the other: decided, folded and read."""

from typing import NamedTuple

import apsw

from events.envelope import Event
from projectors.domain import Decision
from schemas.problems import CONFLICT, Refusal
from schemas.writer_lease import TakeWriter, WriterTaken


class WriterRow(NamedTuple):
    """A node that writes from an epoch on, until the next one does."""

    epoch: int
    node: str
    lease_id: str
    place: str
    taken_at: str


def decide(db: apsw.Connection, command: TakeWriter) -> Decision:
    """Decide that a node is the writer; to say it again changes nothing, and an epoch that is over is refused."""
    newest = newest_writer(db)
    answer = {"epoch": command.epoch, "node": command.node}
    if newest is not None and newest.epoch >= command.epoch:
        if (newest.epoch, newest.node, newest.place) == (command.epoch, command.node, command.place):
            return Decision(answer=answer)
        raise Refusal(CONFLICT.problem(f"{newest.node} took epoch {newest.epoch} at {newest.taken_at}"))
    return Decision([WriterTaken(**command.model_dump())], answer)


def fold(db: apsw.Connection, event: Event, fact: WriterTaken) -> None:
    """Fold that a node is the writer."""
    db.execute(
        "INSERT OR REPLACE INTO writer VALUES (?, ?, ?, ?, ?)",
        (fact.epoch, fact.node, fact.lease_id, fact.place, event.time),
    )


def newest_writer(db: apsw.Connection) -> WriterRow | None:
    """Return the newest writer, None where nobody ever said that he is."""
    row = db.execute("SELECT epoch, node, lease_id, place, taken_at FROM writer ORDER BY epoch DESC LIMIT 1").fetchone()
    return None if row is None else WriterRow(*row)
