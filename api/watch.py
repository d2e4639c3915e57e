"""The route of watches: a query held open, its result sent again whenever it changes."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from api.inputs import LAST_EVENT_ID, MIN_POSITION
from api.positions import MIN_POSITION_HEADER, await_position
from api.routes import Reply, Request, Route, StreamReply
from api.sse import CONTENT_TYPE, comment, error_frame, event_stream, last_event_id, retry_line
from projectors.control.registry import Registry
from projectors.document.domain import document_partition
from projectors.document.watches.watch import Subscription
from projectors.document.watches.watching import Watches
from projectors.partitions import Partitions
from schemas.document import Statement
from schemas.problems import Refusal
from schemas.watch import WatchRequest

BODY_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class WatchApi:
    """The handler, with what it needs. `check` refuses a statement that is no query, without running it."""

    registry: Registry
    partitions: Partitions
    watches: Watches
    check: Callable[[str, Statement], Awaitable[None]]

    def routes(self) -> Sequence[Route]:
        """Return the route table of watches."""
        return (
            Route(
                "POST",
                "/api/v1/db/{db_id}/query/watch",
                "query.read",
                self.watch,
                body=WatchRequest,
                body_bytes_max=BODY_BYTES_MAX,
                resource="/query/watch",
                replies={200: "text/event-stream of `snapshot`, `update`, `heartbeat` and `error`"},
                media={200: (CONTENT_TYPE,)},
                inputs=(LAST_EVENT_ID, MIN_POSITION),
                summary="Follow the result of a query",
            ),
        )

    async def watch(self, request: Request[WatchRequest]) -> Reply | StreamReply:
        """Answer the stream of a query's results."""
        body, statement, seen = request.body, request.body.statement, last_event_id(request)
        self.registry.require(request.db_id)
        if MIN_POSITION_HEADER in request.headers:
            await await_position(request, self.partitions[document_partition(request.db_id)])
        await self.check(request.db_id, statement)
        self.registry.require(request.db_id)  # again: it may have been deleted before there was a watch to end
        subscription = self.watches.subscribe(request.db_id, statement, max_rows=body.options.max_rows, last_seen=seen)
        return event_stream(_Events(subscription, body.options.heartbeat_seconds, request.id))


class _Events:
    """The frames of one stream. Not a generator, since one that was never begun would leave its subscription behind."""

    __slots__ = ("_begun", "_ended", "_heartbeat_s", "_request_id", "_subscription")

    def __init__(self, subscription: Subscription, heartbeat_s: float, request_id: str) -> None:
        self._subscription = subscription
        self._heartbeat_s = heartbeat_s
        self._request_id = request_id
        self._begun = self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        if not self._begun:
            self._begun = True
            return retry_line()
        try:
            return await self._subscription.next(self._heartbeat_s) or comment("the first result is on its way")
        except Refusal as refusal:
            self._ended = True
            return error_frame(refusal.problem, self._request_id)

    async def aclose(self) -> None:
        """Stop following."""
        self._subscription.close()
