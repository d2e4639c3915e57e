"""Why a commit loop stands still, for those who wait for it and for the log of the node."""

from contextlib import suppress

import apsw
import structlog

from events.archived import Archived
from events.errors import AppendAbandoned, LogDamaged, LogError, MessageTooLarge, NotTheWriter
from schemas.ids import PartitionId, Position
from schemas.problems import (
    BODY_TOO_LARGE,
    DISK_FULL,
    NOT_THE_WRITER,
    OTHER_HISTORY,
    PARTITION_STOPPED,
    UNAVAILABLE,
    Problem,
    Refusal,
)

log = structlog.get_logger(__name__)


def explain(error: Exception, partition: str, *, known: str | None) -> Problem:
    """Log why the loop of `partition` stops, and return what to tell callers; `known` is what stopped it before."""
    names = {"partition": partition, "reason": str(error)}
    if isinstance(error, LogDamaged):
        if known != str(error):  # it is found again every time that the log is looked at
            log.error("partition stopped", **names)
        return PARTITION_STOPPED.problem(str(error))
    if isinstance(error, AppendAbandoned):
        log.warning("append abandoned", **names)
        return NOT_THE_WRITER.problem(str(error))
    if isinstance(error, LogError):
        log.warning("partition waits for the log", **names)
        return UNAVAILABLE.problem(f"the log is away: {error}")
    detail = f"the projection of {partition} cannot be written now"
    if isinstance(error, apsw.FullError):  # again and again until there is space: no traceback for that
        log.error("partition waits for disk space", **names)
        return DISK_FULL.problem(detail)
    log.exception("commit loop failed", exc_info=error, **names)
    return UNAVAILABLE.problem(detail)


async def refuse_lost(archive: Archived | None, partition: PartitionId, position: Position) -> None:
    """Refuse a position that is not of the history, although this stands later: its record was lost at a takeover."""
    with suppress(LogError):  # then nobody can say
        if archive is not None and not await archive.knows(partition, position):
            raise Refusal(
                OTHER_HISTORY.problem(f"record {position} of {partition} was lost when another node took over")
            )


def not_appended(error: LogError) -> Problem:
    """Return what to tell callers whose record the log did not take, for certain."""
    match error:
        case NotTheWriter():
            return NOT_THE_WRITER.problem(str(error))
        case MessageTooLarge():
            return BODY_TOO_LARGE.problem(f"the log does not take it: {error}")
    return UNAVAILABLE.problem(f"the log does not take it: {error}")
