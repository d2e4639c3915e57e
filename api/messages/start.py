"""Where a subscriber begins: which messages it wants, from where on, and whether the last values first."""

from collections.abc import Sequence
from typing import NamedTuple

from api.inputs import MIN_POSITION, Input, flag_input, header, number
from api.messages.filters import FILTERS, filters
from api.parameters import query_number
from api.places import flag
from api.routes import Request
from api.sse import LAST_EVENT_ID_HEADER
from projectors.document.messages.live import Messages
from projectors.document.messages.message import Message
from schemas.problems import INVALID_PARAMETER, Refusal

ACTION = "pub.subscribe"
TAIL_MAX = 1_000_000
ID_MAX = (1 << 63) - 1
WHERE: tuple[Input, ...] = (
    FILTERS,
    number("since_id", "Begin after the message with this id; 0 for the oldest that is kept.", 0, ID_MAX),
    number("tail", "Begin with so many of the newest messages that match.", 0, TAIL_MAX),
    flag_input("retained", "Send the last values that match first, without ids."),
    header(
        "Last-Event-ID",
        "The id of the last event that was seen: the stream goes on from there, whatever since_id and tail say.",
        pattern=r"^[0-9]{1,19}$",
    ),
    MIN_POSITION,
)


class Start(NamedTuple):
    """Which messages somebody wants, and from where on."""

    filters: tuple[str, ...]
    since: int | None
    tail: int
    retained: bool


def start(request: Request[None]) -> Start:
    """Read where a subscriber begins; refuse (400, 403) what makes no sense or is not allowed."""
    wanted = filters(request, ACTION)
    if "since_id" in request.query and "tail" in request.query:
        raise Refusal(INVALID_PARAMETER.problem("since_id and tail exclude each other", field="tail"))
    tail = query_number(request, "tail", 0, 0, TAIL_MAX)
    since = query_number(request, "since_id", 0, 0, ID_MAX) if request.query.get("since_id") else None
    seen = request.headers.get(LAST_EVENT_ID_HEADER, "").strip()
    if seen:
        if not (seen.isascii() and seen.isdigit() and len(seen) <= 19 and int(seen) <= ID_MAX):
            why = f"Last-Event-ID is the id of a message, not {seen[:40]!r}"
            raise Refusal(INVALID_PARAMETER.problem(why, field="Last-Event-ID"))
        since = int(seen)
    return Start(wanted, since, tail, flag(request, "retained", False))


class LastValues:
    """The last values of topics, part by part."""

    __slots__ = ("_after", "_db_id", "_filters", "_messages")

    def __init__(self, messages: Messages, db_id: str, filters: Sequence[str]) -> None:
        self._messages = messages
        self._db_id = db_id
        self._filters = filters
        self._after: str | None = ""

    async def next(self) -> Sequence[Message]:
        """Return some more, none when there are no more; raise `Refusal`."""
        found: Sequence[Message] = ()
        while not found and self._after is not None:
            found, self._after = await self._messages.last_values(self._db_id, self._filters, self._after)
        return found
