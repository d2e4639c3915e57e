"""Places in a document's history as requests name them, and the refusals where the log does not hold one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from api.routes import Request
from events.cursor import Cursor
from events.errors import HistoryBegins, LogDamaged, LogUnavailable
from events.seek import BelowFloor, BeyondHead, OutOfReach
from projectors.document.history.history import History
from schemas.ids import START, InvalidId, PartitionId, Position
from schemas.problems import (
    HISTORY_GONE,
    INVALID_PARAMETER,
    OTHER_HISTORY,
    PARTITION_STOPPED,
    POSITION_AHEAD,
    REPLICA_RECALLED,
    UNAVAILABLE,
    Refusal,
)

HEAD_HEADER = "forge-head"
FLOOR_HEADER = "forge-floor"
RESEED_HEADER = "forge-reseed"


class Documents(Protocol):
    """What these routes need to know of documents: whether one can be read."""

    def require(self, db_id: str) -> object:
        """Raise `Refusal` (404, 410) if there is none."""


def document(request: Request[Any], documents: Documents) -> PartitionId:
    """Return the history of the document that a request is about; refuse (404, 410) if there is none."""
    documents.require(request.db_id)
    return PartitionId("doc", request.db_id)


def query_position(request: Request[Any], name: str) -> Position | None:
    """Read a position from the query: `1.42`, or `0` for the beginning."""
    text = request.query.get(name, "").strip()
    if text in ("", "0"):
        return START if text else None
    try:
        return Position.parse(text)
    except InvalidId as error:
        raise Refusal(INVALID_PARAMETER.problem(f"{name}: {error}, or 0 for the beginning", field=name)) from error


def flag(request: Request[Any], name: str, default: bool) -> bool:
    """Read `true` or `false` from the query."""
    text = request.query.get(name, "").strip().lower()
    if text not in ("", "true", "false", "1", "0"):
        raise Refusal(INVALID_PARAMETER.problem(f"{name} is true or false, not {text[:40]!r}", field=name))
    return text in ("true", "1") if text else default


async def place(history: History, partition: PartitionId, position: Position) -> Cursor:
    """Return the cursor at `position`; refuse what the log does not hold."""
    with refusals(partition):
        return await history.place(partition, position)


@contextmanager
def refusals(partition: PartitionId) -> Iterator[None]:
    """Turn what the log says into what HTTP says: 409 other history, 410 gone, 416 ahead, 503 away or damaged."""
    try:
        yield
    except OutOfReach as error:
        raise _out_of_reach(error, partition) from error
    except LogUnavailable as error:
        raise Refusal(UNAVAILABLE.problem(f"the log is away: {error}")) from error
    except HistoryBegins as error:  # it was kept when its place was looked up
        raise Refusal(HISTORY_GONE.problem(str(error), fix=_reseed(partition)), _reseed_header(partition)) from error
    except LogDamaged as error:
        raise Refusal(PARTITION_STOPPED.problem(str(error))) from error


def other_history(partition: PartitionId, why: str, headers: Mapping[str, str] | None = None) -> Refusal:
    """Return the refusal for somebody whose copy did not come from this history."""
    return Refusal(OTHER_HISTORY.problem(why, fix=_reseed(partition)), _reseed_header(partition) | dict(headers or {}))


def recalled(partition: PartitionId, why: str) -> Refusal:
    """Return the refusal for a replica whose copy was given up."""
    return Refusal(REPLICA_RECALLED.problem(why, fix=_reseed(partition)), _reseed_header(partition))


def _out_of_reach(error: OutOfReach, partition: PartitionId) -> Refusal:
    headers = {HEAD_HEADER: str(error.head), FLOOR_HEADER: str(error.floor)}
    match error:
        case BeyondHead():
            return Refusal(POSITION_AHEAD.problem(str(error)), headers)
        case BelowFloor():
            return Refusal(
                HISTORY_GONE.problem(str(error), fix=_reseed(partition)), headers | _reseed_header(partition)
            )
    return other_history(partition, str(error), headers)


def _reseed(partition: PartitionId) -> str:
    return f"Take `GET {_snapshot_path(partition)}` and follow from its position."


def _reseed_header(partition: PartitionId) -> dict[str, str]:
    return {RESEED_HEADER: _snapshot_path(partition)}


def _snapshot_path(partition: PartitionId) -> str:
    return f"/api/v1/db/{partition.key}/snapshot/latest"
