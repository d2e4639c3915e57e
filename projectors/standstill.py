"""Why a commit loop stands still, for those who wait for it and for the log of the node."""

import apsw
import structlog

from events.errors import AppendAbandoned, LogDamaged, LogError, MessageTooLarge, NotTheWriter
from schemas.problems import BODY_TOO_LARGE, DISK_FULL, NOT_THE_WRITER, PARTITION_STOPPED, UNAVAILABLE, Problem

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


def not_appended(error: LogError) -> Problem:
    """Return what to tell callers whose record the log did not take, for certain."""
    match error:
        case NotTheWriter():
            return NOT_THE_WRITER.problem(str(error))
        case MessageTooLarge():
            return BODY_TOO_LARGE.problem(f"the log does not take it: {error}")
    return UNAVAILABLE.problem(f"the log does not take it: {error}")
