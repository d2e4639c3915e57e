"""How commands print the records of a log."""

from typing import TYPE_CHECKING

from forge.cli.options import invocation
from forge.cli.output import emit_line

if TYPE_CHECKING:  # the log's libraries take longer to import than `forge --help` may take
    from events.cursor import Entry


def emit_record(entry: "Entry") -> None:
    """Print the events of a record, one line each."""
    record = entry.record
    for event in record.envelopes():
        line = {"position": str(record.position), "sequence": entry.cursor.sequence, "node": record.node, **event}
        text = f"{record.position}  {event['time']}  {event['type']}  {event['subject']}  by {event['principal']}"
        emit_line(line, text, as_json=invocation().json)
