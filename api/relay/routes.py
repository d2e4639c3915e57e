"""The routes of the stream relay below a document."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from api.inputs import IF_FENCE, Input, choice, text
from api.relay.acts import perform
from api.relay.grammar import CHANNEL_METHODS, REQUESTS, Act, Doing, answer, not_allowed, parse_rest
from api.relay.options import MODES, asking, broadcasts, receiving, sending
from api.relay.relay import Relay
from api.relay.switch import QUEUE
from api.routes import ANY_METHOD, Reply, Request, Route, StreamReply
from schemas.problems import INVALID_PARAMETER, NOT_FOUND, Refusal

BODY_BYTES_MAX = sys.maxsize
"""Bodies are not kept but passed on, so they may be of any size."""
CONTENT_TYPE = "application/octet-stream"
_BASE = "/api/v1/db/{db_id}/streams"
TIMEOUT = text("timeout", "Seconds to wait for the other side, then 408; without it as long as it takes.")
TEE = text("tee", "Store the body as a message of this topic too; its id is in `Forge-Message-Id`.", maxLength=255)
STORING: tuple[Input, ...] = (TEE, IF_FENCE)
SENDING: tuple[Input, ...] = (
    *STORING,
    text("body", "The message, instead of the body."),
    text("discard", "A flag: deliver an empty message instead of this one."),
    text("pubsub", "A flag: give a copy to all who wait at this moment."),
    choice("mode", "Decides before `pubsub`.", MODES),
)
REQUEST = text("request", "A flag: come back with the body of the request that was answered.")
SWITCH = text("switch", "A flag: the body names the channel of the answer, and the request comes back.")
_MESSAGE = {200: "the message, with the type and headers that its sender gave it"}
_ANSWERED = {200: "delivered; with `request` or `switch`, the request", 410: "nobody waits for that answer any more"}
_DONE = {200: "delivered", 410: "too late: nobody waits for that answer", 502: "the receiver broke off"}


@dataclass(frozen=True, slots=True)
class RelayApi:
    """The handlers. `require` refuses documents that are not there."""

    relay: Relay
    require: Callable[[str], object]

    def routes(self) -> Sequence[Route]:
        """Return the route table of the stream relay."""
        next_of, topic = f"{_BASE}/queue/{{topic:path}}/next", f"{_BASE}/queue/{{topic:path}}"
        answers = f"{_BASE}/res/{{path:path}}"
        send = "Send a message"
        return (
            _route("GET", next_of, "stream.read", "queue/{topic}", self.next, _MESSAGE, "Wait for a message", TIMEOUT),
            *(
                _route(
                    method,
                    next_of,
                    "stream.write",
                    "queue/{topic}/next",
                    self.send_to_next,
                    _DONE,
                    send,
                    TIMEOUT,
                    *SENDING,
                )
                for method in ("POST", "PUT")
            ),
            *(
                _route(method, topic, "stream.write", "queue/{topic}", self.send, _DONE, send, TIMEOUT, *SENDING)
                for method in ("POST", "PUT")
            ),
            _route("GET", topic, "stream.write", "queue/{topic}", self.send_by_link, _DONE, send, TIMEOUT, *SENDING),
            _route(
                ANY_METHOD,
                f"{_BASE}/req/{{path:path}}",
                "stream.write",
                "req/{path}",
                self.ask,
                {200: "the answer, with the status, type and headers that its sender gave it"},
                "Send a request and wait for its answer",
                TIMEOUT,
                *STORING,
            ),
            *(
                _route(
                    method,
                    answers,
                    "stream.write",
                    "res/{path}",
                    self.answer,
                    _ANSWERED,
                    "Answer a request",
                    TIMEOUT,
                    *STORING,
                    REQUEST,
                    SWITCH,
                )
                for method in ("POST", "PUT")
            ),
            _route("GET", answers, "stream.write", "res/{path}", self.take, _MESSAGE, "Take a request", TIMEOUT),
        )

    async def next(self, request: Request[Any]) -> Reply | StreamReply:
        """Wait for the next message of a topic."""
        return await self._at(request, Doing(Act.CONSUME, _topic(request), receiving(request), CONTENT_TYPE))

    async def send(self, request: Request[Any]) -> Reply | StreamReply:
        """Send a message to a topic."""
        return await self._at(request, _sending(request, _topic(request)))

    async def send_to_next(self, request: Request[Any]) -> Reply | StreamReply:
        """Send a message to a topic that ends in `/next`."""
        return await self._at(request, _sending(request, f"{_topic(request)}/next"))

    async def send_by_link(self, request: Request[Any]) -> Reply | StreamReply:
        """Send the text of the parameter `body`."""
        if not request.query.get("body"):
            why = "a GET here sends the text of the parameter `body`; to receive, add /next to the path"
            raise Refusal(INVALID_PARAMETER.problem(why, field="body"))
        return await self._at(request, _sending(request, _topic(request)))

    async def ask(self, request: Request[Any]) -> Reply | StreamReply:
        """Send a request."""
        name = REQUESTS + request.params["path"]
        return await self._at(request, Doing(Act.ASK, name, asking(request), CONTENT_TYPE))

    async def answer(self, request: Request[Any]) -> Reply | StreamReply:
        """Answer a request."""
        return await self._at(request, answer(request, request.params["path"], CONTENT_TYPE))

    async def take(self, request: Request[Any]) -> Reply | StreamReply:
        """Take a request."""
        name = REQUESTS + request.params["path"]
        return await self._at(request, Doing(Act.TAKE, name, receiving(request), CONTENT_TYPE))

    async def _at(self, request: Request[Any], doing: Doing) -> Reply | StreamReply:
        if request.method == "HEAD" and doing.act is not Act.ASK:
            raise not_allowed(request.method, CHANNEL_METHODS)  # it would take a message, and show nobody the body
        self.require(request.db_id)
        if doing.channel in (QUEUE, REQUESTS) or parse_rest(doing.channel) != doing.channel:
            raise Refusal(NOT_FOUND.problem("the path names no channel"))
        return await perform(self.relay, request, doing, request.db_id)


def _topic(request: Request[Any]) -> str:
    return QUEUE + request.params["topic"]


def _sending(request: Request[Any], channel: str) -> Doing:
    act = Act.PUBLISH if broadcasts(request) else Act.SEND
    return Doing(act, channel, sending(request), CONTENT_TYPE)


def _route(
    method: str,
    path: str,
    scope: str,
    resource: str,
    handler: Callable[[Request[Any]], Any],
    replies: dict[int, str],
    summary: str,
    *inputs: Input,
) -> Route:
    return Route(
        method,
        path,
        scope,
        handler,
        streaming=True,
        body_bytes_max=BODY_BYTES_MAX,
        resource=resource,
        waits=True,
        url_token=True,
        anonymous=True,
        replies=replies,
        media={200: ("*/*",)} if replies is not _DONE else {},
        inputs=inputs,
        summary=summary,
    )
