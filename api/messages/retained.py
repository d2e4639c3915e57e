"""The route of last values: of each topic the last message that was published to be retained."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import to_json

from api.inputs import MIN_POSITION, number, text
from api.messages.filters import FILTERS, filters
from api.messages.frames import message_json
from api.parameters import query_number
from api.positions import MIN_POSITION_HEADER, await_position
from api.routes import Reply, Request, Route
from projectors.control.registry import Registry
from projectors.document.domain import document_partition
from projectors.document.messages.live import Messages
from projectors.document.messages.message import Message
from projectors.partitions import Partitions
from schemas.publishing import RetainedReply
from schemas.topics import TOPIC_LENGTH_MAX

ACTION = "pub.subscribe"
PAGE, PAGE_MAX = 100, 1000


@dataclass(frozen=True, slots=True)
class RetainedApi:
    """The handler, with what it needs."""

    registry: Registry
    partitions: Partitions
    messages: Messages

    def routes(self) -> Sequence[Route]:
        """Return the route table of last values."""
        return (
            Route(
                "GET",
                "/api/v1/db/{db_id}/messages/retained",
                ACTION,
                self.retained,
                below=True,
                replies={200: RetainedReply},
                inputs=(
                    FILTERS,
                    text("after", "The topic after which the page begins.", maxLength=TOPIC_LENGTH_MAX),
                    number("limit", "How many a page has at most.", 1, PAGE_MAX, PAGE),
                    MIN_POSITION,
                ),
                summary="The last values of topics that were published with `retain`",
            ),
        )

    async def retained(self, request: Request[None]) -> Reply:
        """Return a page of last values."""
        self.registry.require(request.db_id)
        wanted = filters(request, ACTION)
        limit = query_number(request, "limit", PAGE, 1, PAGE_MAX)
        if MIN_POSITION_HEADER in request.headers:
            await await_position(request, self.partitions[document_partition(request.db_id)])
        found: Sequence[Message] = ()
        following: str | None = request.query.get("after", "")
        while not found and following is not None:
            found, following = await self.messages.last_values(request.db_id, wanted, following, limit)
        values = b",".join(map(message_json, found))
        return Reply(200, b'{"messages":[%b],"next":%b}' % (values, to_json(following)))
