"""The route of the change feed: what each commit did, as pages or as server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from api.change_pages import Pages
from api.inputs import LAST_EVENT_ID, Input, flag_input, number, position_input
from api.leaving import given_up_when_client_leaves
from api.parameters import query_number
from api.places import Documents, document, flag, query_position, refusals
from api.positions import POSITION_HEADER
from api.routes import Reply, Request, Route, StreamReply
from api.sse import CONTENT_TYPE, error_frame, event_stream, frame, last_event_id, retry_line
from events.cursor import Cursor
from events.errors import HistoryBegins, LogDamaged
from projectors.document.history.changes import EVERYTHING, Selection
from projectors.document.history.decoding import Decoder
from projectors.document.history.feed import FRAMES_BYTES, Passing
from projectors.document.history.history import History
from schemas.changes import ChangesPage
from schemas.ids import PartitionId, Position
from schemas.problems import HISTORY_GONE, INVALID_PARAMETER, PARTITION_STOPPED, Refusal

LIMIT_DEFAULT, LIMIT_MAX = 100, 1000
WAIT_MS_MAX = 30_000
TABLES_MAX = 100
HEARTBEAT_S = 10.0
INPUTS = (
    position_input("after", "Begin after this position; without it, with what comes next."),
    position_input("before", "The newest first, from before this position; empty for the newest of all."),
    number("limit", "How many commits a page has at most.", 1, LIMIT_MAX, LIMIT_DEFAULT),
    number("wait_ms", "How long to wait for a first change.", 0, WAIT_MS_MAX, 0),
    flag_input("rows", "Whether to tell each row; without it the tables and how many."),
    Input(
        "query",
        "table",
        "Only changes of this table; may be given several times.",
        {"type": "array", "items": {"type": "string"}, "maxItems": TABLES_MAX},
    ),
    LAST_EVENT_ID,
)


@dataclass(frozen=True, slots=True)
class ChangesApi:
    """The handler, with what it needs."""

    history: History
    documents: Documents
    decoder: Decoder
    heartbeat_s: float = HEARTBEAT_S

    def routes(self) -> Sequence[Route]:
        """Return the route table of the change feed."""
        return (
            Route(
                "GET",
                "/api/v1/db/{db_id}/changes",
                "query.read",
                self.changes,
                resource="/changes",
                waits=True,
                inputs=INPUTS,
                media={200: (CONTENT_TYPE,)},
                replies={
                    200: ChangesPage,
                    409: "the position is of another history",
                    410: "the position is no longer in the log",
                    416: "the position has not been reached",
                },
                summary="What each commit changed: a page, or server-sent events from a position on",
            ),
        )

    async def changes(self, request: Request[None]) -> Reply | StreamReply:
        """Answer a page of changes after a position or before one, or begin to send them as they come."""
        partition = document(request, self.documents)
        after = last_event_id(request) or query_position(request, "after")
        before = query_position(request, "before")
        if before is not None and after is not None:
            raise Refusal(INVALID_PARAMETER.problem("before and after exclude each other", field="before"))
        newest_first = "before" in request.query  # empty: before the one that comes next
        selection = _selection(request, rows=not newest_first)
        limit = query_number(request, "limit", LIMIT_DEFAULT, 1, LIMIT_MAX)
        pages = Pages(self.history, self.decoder, partition, selection)
        if newest_first:
            return await pages.before(before, limit=limit)
        with refusals(partition):
            cursor = await (self.history.end(partition) if after is None else self.history.place(partition, after))
        if CONTENT_TYPE in request.headers.get("accept", ""):
            headers = {POSITION_HEADER: str(cursor.position)}
            return event_stream(self._stream(partition, cursor, selection, request.id), headers)
        wait_s = query_number(request, "wait_ms", 0, 0, WAIT_MS_MAX) / 1000
        with given_up_when_client_leaves(request):
            return await pages.after(cursor, limit=limit, wait_s=wait_s)

    async def _stream(
        self, partition: PartitionId, cursor: Cursor, selection: Selection, request_id: str
    ) -> AsyncGenerator[bytes]:
        """Yield frames for ever; their ids are positions, so that whoever comes back with one misses nothing."""
        yield retry_line() + _heartbeat(cursor.position)
        loop = asyncio.get_running_loop()
        position = cursor.position
        due = loop.time() + self.heartbeat_s
        try:
            async with (
                self.history.following(partition) as feed,
                aclosing(feed.follow_awake(cursor, self.heartbeat_s)) as passings,
            ):
                async for passing in passings:
                    self.documents.require(partition.key)  # it may have been deleted meanwhile
                    if passing is not None:
                        position = passing.entry.cursor.position
                        if await self.decoder.wants(passing, selection):
                            async with aclosing(self._frames(passing, selection)) as frames:
                                async for one in frames:
                                    yield one
                            due = loop.time() + self.heartbeat_s
                    if loop.time() >= due:
                        yield _heartbeat(position)
                        due = loop.time() + self.heartbeat_s
        except HistoryBegins as error:
            yield error_frame(HISTORY_GONE.problem(str(error)), request_id)
        except LogDamaged as error:
            yield error_frame(PARTITION_STOPPED.problem(str(error)), request_id)
        except Refusal as refusal:
            yield error_frame(refusal.problem, request_id)

    async def _frames(self, passing: Passing, selection: Selection) -> AsyncGenerator[bytes]:
        """Yield the frames of one record; only the last one has its position for an id."""
        shared = selection == EVERYTHING
        if shared and passing.frames is not None:
            yield passing.frames
            return
        made = last = b""
        async with aclosing(self.decoder.items(passing, selection)) as items:
            async for item in items:
                if last:
                    yield (one := frame("change", last))
                    made = made + one if len(made) <= FRAMES_BYTES else made
                last = item
        if last:
            yield (one := frame("change", last, str(passing.entry.cursor.position)))
            if shared:
                passing.keep(made + one)


def _heartbeat(position: Position) -> bytes:
    return frame("heartbeat", to_json({"position": str(position)}), str(position))


def _selection(request: Request[Any], *, rows: bool) -> Selection:
    tables = request.query.getlist("table")
    if len(tables) > TABLES_MAX:
        raise Refusal(INVALID_PARAMETER.problem(f"at most {TABLES_MAX} tables can be named", field="table"))
    return Selection(frozenset(map(str.lower, tables)), flag(request, "rows", rows))
