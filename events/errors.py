"""What the log refuses or cannot do.

LogError
├── LogUnavailable          nothing was written; try again later (the server is away, has no stream, or is full)
├── MessageTooLarge         a message would break the server's limits; nothing was sent
├── NotTheWriter            this process may not write now; nothing was sent
├── AppendAbandoned         whether the record was appended is unknown, and this process may not ask again
└── LogDamaged              history is not what it must be; an operator has to look
    ├── LogGap              a record is missing
    │   └── HistoryBegins   it is older than all that is kept: begin with a generation
    ├── ChainMismatch       a record does not follow from the one before it
    ├── LogWentBack         the log ends before a position that was already known
    ├── MalformedRecord     a message is not a record
    └── UnknownEvent        an event type this version of Forge does not know
"""

from schemas.ids import Position


class LogError(Exception):
    """Base of everything in this module."""


class LogUnavailable(LogError):
    """Nothing was written. The message says what is wrong with the server."""


class MessageTooLarge(LogError):
    """A message would be larger than the server takes. It was not sent."""


class NotTheWriter(LogError):
    """This process may not write now: another one may be the writer. Nothing was sent."""


class AppendAbandoned(LogError):
    """Whether the record was appended is unknown, and this process may not send it again."""


class LogDamaged(LogError):
    """History is not what it must be. Never skipped, never repaired in silence."""


class LogGap(LogDamaged):
    """A record is missing."""


class HistoryBegins(LogGap):
    """What was asked for is older than all that the log and its archive keep; `floor` is the first record they have.

    Nothing is wrong with them: whoever reads begins with a generation instead, or says so.
    """

    def __init__(self, why: str, floor: Position) -> None:
        super().__init__(why)
        self.floor = floor


class ChainMismatch(LogDamaged):
    """A record does not follow from the one before it."""


class LogWentBack(LogDamaged):
    """The log ends before a position that was already known."""


class MalformedRecord(LogDamaged):
    """A message on a log subject is not a record."""


class UnknownEvent(LogDamaged):
    """An event type that this version does not know: a newer Forge wrote it."""
