"""The paths that older clients of the relay know, mapped onto the channels of documents."""

from calendar import timegm
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from api.inputs import Input
from api.relay.acts import perform
from api.relay.grammar import parse_rest, understand
from api.relay.relay import Relay
from api.relay.routes import BODY_BYTES_MAX, REQUEST, SENDING, SWITCH, TIMEOUT
from api.routes import ANY_METHOD, Reply, Request, Route, StreamReply
from schemas.problems import LEGACY_GONE, NOT_FOUND, Refusal

PUBLIC_DOCUMENT = "public"
ADMINISTRATION = "_/"
_GONE = {
    "invalidate_cache": "tokens are not cached anywhere but here: a revocation is effective at once",
    "ntfy": "publish a message instead: POST /api/v1/db/{db_id}/messages",
}
INPUTS = (
    TIMEOUT,
    *SENDING,
    REQUEST,
    SWITCH,
)
_ACTIONS = ("stream.read", "stream.write")


@dataclass(frozen=True, slots=True)
class RelayAliases:
    """The handlers. `require` refuses documents that are not there and that not everybody may use.

    With a day of `deprecation`, answers say that these paths are deprecated from then on (RFC 9745).
    """

    relay: Relay
    require: Callable[[str], object]
    deprecation: date | None = None

    def routes(self) -> Sequence[Route]:
        """Return the route table of the older paths."""
        return (
            legacy_route("/public/{rest:path}", self.public, *INPUTS),
            legacy_route("/p/{rest:path}", self.public, *INPUTS),
            legacy_route("/u/{user}/{rest:path}", self.user, *INPUTS, document="{user}"),
        )

    async def public(self, request: Request[Any]) -> Reply | StreamReply:
        """Relay at a channel of the document `public`."""
        return await self._at(request, parse_rest(request.params["rest"]))

    async def user(self, request: Request[Any]) -> Reply | StreamReply:
        """Relay at a channel of the document that is called like a user."""
        name = parse_rest(request.params["rest"])
        if name.startswith(ADMINISTRATION):
            what = name.removeprefix(ADMINISTRATION)
            if what in _GONE:
                raise Refusal(LEGACY_GONE.problem(_GONE[what]))
            raise Refusal(NOT_FOUND.problem("there is nothing of that name"))
        return await self._at(request, name)

    async def _at(self, request: Request[Any], name: str) -> Reply | StreamReply:
        doing = understand(request, name)
        request.require(doing.action, doing.resource)
        self.require(request.db_id)
        reply = await perform(self.relay, request, doing, request.db_id)
        return reply if self.deprecation is None else replace(reply, headers=[*_lines(reply), self._deprecated()])

    def _deprecated(self) -> tuple[str, str]:
        assert self.deprecation is not None
        return "Deprecation", f"@{timegm(self.deprecation.timetuple())}"


def _lines(reply: Reply | StreamReply) -> Sequence[tuple[str, str]]:
    return tuple(reply.headers.items()) if isinstance(reply.headers, Mapping) else reply.headers


def legacy_route(
    path: str, handler: Callable[[Request[Any]], Any], *inputs: Input, document: str = PUBLIC_DOCUMENT
) -> Route:
    """Return a route of older clients: any method, a token in the URL or none where that is allowed, plain refusals."""
    return Route(
        ANY_METHOD,
        path,
        _ACTIONS,
        handler,
        streaming=True,
        body_bytes_max=BODY_BYTES_MAX,
        document=document,
        below=True,
        waits=True,
        url_token=True,
        anonymous=True,
        plain_errors=True,
        replies={200: "what the relay of older clients answered", 405: "of channels: GET, POST and PUT"},
        media={200: ("*/*",)},
        inputs=inputs,
        summary="Relay, as older clients know it",
    )
