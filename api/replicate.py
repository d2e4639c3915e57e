"""The routes that tell how far everything is archived, and that have generations made."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from api.inputs import number, text
from api.parameters import query_number
from api.routes import Reply, Request, Route
from api.system import SCOPE
from schemas.replicate import GenerationMade, GenerationsReply, GenerationsRequest, ReplicateStatusReply

MANAGE = "db.manage"
PAGE, PAGE_MAX = 100, 1000
AFTER_LENGTH_MAX = 400


@dataclass(frozen=True, slots=True)
class ReplicateApi:
    """The handlers. `status` looks at up to a number of partitions after one, named by its subject.

    `generate` makes generations of projections, and returns those that are done in time.
    """

    status: Callable[[str, int], Awaitable[ReplicateStatusReply]]
    generate: Callable[[Sequence[str]], Awaitable[list[GenerationMade]]]

    def routes(self) -> Sequence[Route]:
        """Return the route table."""
        return (
            Route(
                "GET",
                "/api/v1/replicate/status",
                SCOPE,
                self.show,
                inputs=(
                    text("after", "`next` of the page before.", maxLength=AFTER_LENGTH_MAX),
                    number("limit", "Partitions of a page.", 1, PAGE_MAX, PAGE),
                ),
                replies={200: ReplicateStatusReply},
                summary="How far the log is archived, by stream and by partition",
            ),
            Route(
                "POST",
                "/api/v1/replicate/generations",
                MANAGE,
                self.make,
                body=GenerationsRequest,
                replies={200: GenerationsReply},
                summary="Make generations of projections now; ask again for those that take longer",
            ),
        )

    async def show(self, request: Request[None]) -> Reply:
        """Answer with one page."""
        limit = query_number(request, "limit", PAGE, 1, PAGE_MAX)
        return Reply(200, await self.status(request.query.get("after", "")[:AFTER_LENGTH_MAX], limit))

    async def make(self, request: Request[GenerationsRequest]) -> Reply:
        """Make some generations."""
        return Reply(200, GenerationsReply(generations=await self.generate(request.body.projections)))
