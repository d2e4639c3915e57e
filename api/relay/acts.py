"""Does what somebody wants to do at a channel."""

from typing import Any

from api.relay import answering, asking, broadcast, queue
from api.relay.channel import Key
from api.relay.grammar import Act, Doing
from api.relay.relay import Relay
from api.routes import Reply, Request, StreamReply


async def perform(relay: Relay, request: Request[Any], doing: Doing, space: str) -> Reply | StreamReply:
    """Do it in one space of channels, usually that of a document."""
    relay.heed(request.stopping)
    with relay.visitors.entered(request.caller.name, request.client_address):
        return await _perform(relay, request, doing, Key(space, doing.channel))


async def _perform(relay: Relay, request: Request[Any], doing: Doing, key: Key) -> Reply | StreamReply:
    match doing.act:
        case Act.CONSUME:
            return await queue.consume(relay, request, key, doing)
        case Act.SEND:
            return await queue.send(relay, request, key, doing)
        case Act.PUBLISH:
            return await broadcast.publish(relay, request, key, doing)
        case Act.ASK:
            return await asking.ask(relay, request, key, doing)
        case Act.ANSWER:
            return await answering.answer(relay, request, key, doing)
        case Act.TAKE:
            return await answering.take(relay, request, key, doing)
        case Act.SWITCH:
            return await answering.switch(relay, request, key, doing)
