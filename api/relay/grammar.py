"""What the rest of an old relay path and the method mean: which channel, and what is done there."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from api.headers import Headers
from api.relay.options import Options, answering, asking, broadcasts, flag, receiving, sending
from api.routes import Request
from schemas.problems import INVALID_PARAMETER, METHOD_NOT_ALLOWED, NOT_FOUND, Refusal

NAME_LENGTH_MAX = 512
REQUESTS, ANSWERS, LISTENERS = "req/", "res/", "pubsub/"
SENDING = ("POST", "PUT")
CHANNEL_METHODS = "GET, POST, PUT"
OLD_TYPE = "text/plain"
"""What a body is that says nothing about itself, on the older paths."""
_OLDEST = {
    "type": "the path says it now: queue/, pubsub/, req/ or res/, or ?mode=queue and ?mode=pubsub",
    "mime": "send the type as Content-Type",
    "persist": "ask again after each message, or subscribe to messages: GET /api/v1/db/{db_id}/events/stream",
    "unpersist": "ask again after each message, or subscribe to messages: GET /api/v1/db/{db_id}/events/stream",
}
"""Parameters of the first generation, and what replaces them."""


class Act(Enum):
    """What somebody does at a channel."""

    CONSUME = auto()
    SEND = auto()
    PUBLISH = auto()
    ASK = auto()
    ANSWER = auto()
    TAKE = auto()
    SWITCH = auto()


@dataclass(frozen=True, slots=True)
class Doing:
    """An act at a channel; of an answer, the channel is that of the requests. `default_type` is of a body without."""

    act: Act
    channel: str
    options: Options
    default_type: str

    @property
    def resource(self) -> str:
        """What a scope must cover."""
        answers = self.act in (Act.ANSWER, Act.TAKE, Act.SWITCH)
        return ANSWERS + self.channel.removeprefix(REQUESTS) if answers else self.channel

    @property
    def action(self) -> str:
        """The action that a scope must allow."""
        return "stream.read" if self.act is Act.CONSUME else "stream.write"


def parse_rest(rest: str) -> str:
    """Return the channel that the rest of a path names; `Refusal` (404) if it names none."""
    name = rest.removeprefix("./")
    if name.startswith("/") or "//" in name or len(name) > NAME_LENGTH_MAX:
        raise Refusal(
            NOT_FOUND.problem(f"there is no channel of that name: at most {NAME_LENGTH_MAX} characters, no //")
        )
    return name


def understand(request: Request[Any], name: str) -> Doing:
    """Return what a request to a channel wants; `Refusal` (400, 405) if it is none that the relay knows."""
    if name in (REQUESTS, ANSWERS):
        raise _invalid("path", f"a name must follow {name}")
    if name.startswith(REQUESTS):
        return Doing(Act.ASK, name, asking(request), OLD_TYPE)
    _refuse_oldest(request)
    if name.startswith(ANSWERS):
        return answer(request, name.removeprefix(ANSWERS), OLD_TYPE)
    act = _at_channel(request, name)
    return Doing(act, name, receiving(request) if act is Act.CONSUME else sending(request), OLD_TYPE)


def answer(request: Request[Any], name: str, default_type: str) -> Doing:
    """Return in which way a responder answers the requests of a name."""
    act = _answering(request)
    return Doing(act, REQUESTS + name, answering(request) if act is Act.ANSWER else receiving(request), default_type)


def _answering(request: Request[Any]) -> Act:
    switches = flag(request, "switch")
    if request.method in SENDING:
        return Act.SWITCH if switches else Act.ANSWER
    if request.method == "GET" and not switches:
        return Act.TAKE
    raise not_allowed(request.method, "POST, PUT" if switches else CHANNEL_METHODS)


def _at_channel(request: Request[Any], name: str) -> Act:
    if request.method in SENDING or (request.method == "GET" and request.query.get("body")):
        return Act.PUBLISH if broadcasts(request, default=name.startswith(LISTENERS)) else Act.SEND
    if request.method == "GET":
        return Act.CONSUME
    raise not_allowed(request.method, CHANNEL_METHODS)


def _refuse_oldest(request: Request[Any]) -> None:
    for name in request.query:
        if name in _OLDEST:
            raise _invalid(name, f"{name} is not known any more: {_OLDEST[name]}")
    for name, _ in Headers.lines(request.headers):
        if name.startswith("pw-"):
            raise _invalid(
                name[:60], f"{name[:60]} is not known any more: headers that are relayed begin with Patch-H-"
            )


def not_allowed(method: str, allowed: str) -> Refusal:
    """Return the refusal (405) of a method, with those that are taken."""
    return Refusal(METHOD_NOT_ALLOWED.problem(f"a channel does not take {method}"), {"allow": allowed})


def _invalid(name: str, why: str) -> Refusal:
    return Refusal(INVALID_PARAMETER.problem(why, field=name))
