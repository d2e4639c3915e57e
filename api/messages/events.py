"""The stream of a document's messages, as server-sent events."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from api.messages.frames import lagged_frame, message_frame
from api.messages.start import ACTION, WHERE, LastValues, start
from api.positions import MIN_POSITION_HEADER, await_position
from api.routes import Request, Route, StreamReply
from api.sse import CONTENT_TYPE, error_frame, event_stream, retry_line
from projectors.control.registry import Registry
from projectors.document.domain import document_partition
from projectors.document.messages.group import Batch
from projectors.document.messages.live import DELIVERED, LAGGED, Messages
from projectors.document.messages.subscription import Subscription
from projectors.partitions import Partitions
from schemas.problems import Refusal

HEARTBEAT_S = 10.0


@dataclass(frozen=True, slots=True)
class EventsApi:
    """The handler, with what it needs."""

    registry: Registry
    partitions: Partitions
    messages: Messages
    heartbeat_s: float = HEARTBEAT_S

    def routes(self) -> Sequence[Route]:
        """Return the route table of the stream."""
        return (
            Route(
                "GET",
                "/api/v1/db/{db_id}/events/stream",
                ACTION,
                self.stream,
                below=True,
                url_token=True,
                replies={200: "text/event-stream of `message`, `lagged` and `error`"},
                media={200: (CONTENT_TYPE,)},
                inputs=WHERE,
                summary="Follow messages: those after an id or the newest ones, and then each new one",
            ),
        )

    async def stream(self, request: Request[None]) -> StreamReply:
        """Answer the stream; what is published once its headers are there will come."""
        self.registry.require(request.db_id)
        begin = start(request)
        if MIN_POSITION_HEADER in request.headers:
            await await_position(request, self.partitions[document_partition(request.db_id)])
        subscription = await self.messages.subscribe(request.db_id, begin.filters, since=begin.since, tail=begin.tail)
        try:
            self.registry.require(request.db_id)  # again: it may have been deleted before there was somebody to tell
        except BaseException:
            subscription.close()
            raise
        last_values = LastValues(self.messages, request.db_id, begin.filters) if begin.retained else None
        return event_stream(_Frames(subscription, last_values, self.heartbeat_s, request.id))


class _Frames:
    """The frames of one stream. Not a generator, since one that was never begun would leave its subscription behind."""

    __slots__ = ("_begun", "_ended", "_heartbeat_s", "_last_values", "_request_id", "_subscription", "_told")

    def __init__(
        self, subscription: Subscription, last_values: LastValues | None, heartbeat_s: float, request_id: str
    ) -> None:
        self._subscription = subscription
        self._last_values = last_values
        self._begun = False
        self._heartbeat_s = heartbeat_s
        self._request_id = request_id
        self._told = -1
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._begun:
            self._begun = True
            return self._opening()
        if self._ended:
            raise StopAsyncIteration
        try:
            if self._last_values is not None:
                if values := await self._last_values.next():
                    return b"".join([message_frame(one).partition(b"\n")[2] for one in values])  # without ids
                self._last_values = None
            found = await self._subscription.next(self._heartbeat_s)
        except Refusal as refusal:
            self._ended = True
            return error_frame(refusal.problem, self._request_id)
        if isinstance(found, Batch):
            DELIVERED.inc(len(found.messages))
            return found.encoded(message_frame)
        if found is not None:
            LAGGED.labels(found.reason).inc()
            return lagged_frame(found)
        return self._heartbeat()

    def _opening(self) -> bytes:
        """What a client does that is cut off; and where it stands, in case that happens before the first message."""
        seen = self._subscription.begins_after
        return retry_line() if seen is None else b"id: %d\n%b" % (seen, retry_line())

    def _heartbeat(self) -> bytes:
        """A sign of life; with where the stream stands, so that who comes back need not be told of what is not his."""
        seen = self._subscription.seen
        if seen is None or seen == self._told:
            return b": alive\n\n"
        self._told = seen
        return b": alive\nid: %d\n\n" % seen

    async def aclose(self) -> None:
        """Stop following."""
        self._subscription.close()
