"""Server-sent events: how a frame looks on the wire, and where a client that comes back stands."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from pydantic_core import to_json

from api.routes import Request, StreamReply
from schemas.ids import InvalidId, Position
from schemas.problems import INVALID_PARAMETER, Problem, Refusal

CONTENT_TYPE = "text/event-stream"
LAST_EVENT_ID_HEADER = "last-event-id"
RETRY_MS = 2000
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def frame(event: str, data: bytes, id: str | None = None) -> bytes:
    """Return one event. `data` is JSON and has no line breaks; a client gives back the newest `id` when it returns."""
    head = f"event: {event}\ndata: " if id is None else f"id: {id}\nevent: {event}\ndata: "
    return b"%b%b\n\n" % (head.encode(), data)


def retry_line(milliseconds: int = RETRY_MS) -> bytes:
    """Return what tells a client when to come back; as the first bytes of a stream it gets the headers flushed."""
    return b"retry: %d\n\n" % milliseconds


def comment(text: str) -> bytes:
    """Return a line that clients pass over: a sign of life where there is no event to send."""
    return f": {text}\n\n".encode()


def last_event_id(request: Request[Any]) -> Position | None:
    """Return the position that the client saw last, if it says one; refuse (400) what is none."""
    text = request.headers.get(LAST_EVENT_ID_HEADER, "").strip()
    if not text:
        return None
    try:
        return Position.parse(text)
    except InvalidId as error:
        raise Refusal(INVALID_PARAMETER.problem(f"Last-Event-ID: {error}", field="Last-Event-ID")) from error


def error_frame(problem: Problem, request_id: str) -> bytes:
    """Return the last event of a stream that a problem ends."""
    body: dict[str, Any] = problem.model_copy(update={"request_id": request_id}).body()
    if problem.retry_after_s is not None:
        body["retry_after_s"] = problem.retry_after_s
    return frame("error", to_json(body))


def event_stream(chunks: AsyncIterator[bytes], headers: Mapping[str, str] | None = None) -> StreamReply:
    """Return the answer that sends `chunks` until they end, the client leaves, its token ends or the node stops."""
    lines = {**_HEADERS, **(headers or {})}
    return StreamReply(200, chunks, lines, content_type=CONTENT_TYPE, endless=True, farewell=error_frame)
