"""Why a commit loop stands still, for those who wait for it and for the log of the node."""

import apsw
import structlog

from events.errors import LogDamaged, LogError
from schemas.problems import DISK_FULL, PARTITION_STOPPED, UNAVAILABLE, Problem

log = structlog.get_logger(__name__)


def explain(error: Exception, partition: str, *, known: str | None) -> Problem:
    """Log why the loop of `partition` stops, and return what to tell callers; `known` is what stopped it before."""
    names = {"partition": partition, "reason": str(error)}
    if isinstance(error, LogDamaged):
        if known != str(error):  # it is found again every time that the log is looked at
            log.error("partition stopped", **names)
        return PARTITION_STOPPED.problem(str(error))
    if isinstance(error, LogError):
        log.warning("partition waits for the log", **names)
        return UNAVAILABLE.problem(f"the log is away: {error}")
    detail = f"the projection of {partition} cannot be written now"
    if isinstance(error, apsw.FullError):  # again and again until there is space: no traceback for that
        log.error("partition waits for disk space", **names)
        return DISK_FULL.problem(detail)
    log.exception("commit loop failed", exc_info=error, **names)
    return UNAVAILABLE.problem(detail)
