"""The three ways to answer requests: with what was prepared, with what comes next, and at a channel that is named."""

from functools import partial
from typing import Any

from api.leaving import given_up_when_client_leaves
from api.relay.call import Call
from api.relay.channel import Key
from api.relay.delivery import ended, relayed
from api.relay.grammar import Doing
from api.relay.intake import bring
from api.relay.metrics import REQUEST
from api.relay.offer import Offer
from api.relay.relay import Relay
from api.relay.switch import NAME_LENGTH_MAX, QUEUE, Binding, parse_name
from api.routes import Reply, Request, StreamReply
from schemas.problems import BODY_TOO_LARGE, REQUESTER_GONE, Refusal

OMITTED = "Patch-Request-Omitted"
NAME_BYTES_MAX = 4 * NAME_LENGTH_MAX + 64


async def answer(relay: Relay, request: Request[Any], asked: Key, doing: Doing) -> Reply | StreamReply:
    """Give an answer that is ready to the request that waits for one, or to the next that comes."""
    patience_s, wants_request = doing.options.wait_s, doing.options.wants_request
    brought = await bring(relay, request, REQUEST, doing)
    offer = Offer(brought.message, relay.offers, asked)
    call: Call | None = None
    try:
        with brought.told_in_any_case(), given_up_when_client_leaves(request, 0):
            call = relay.slots.take(asked)
            if call is None:
                call = await _next(relay, asked, patience_s)
                if wants_request and call.message.body.complete:
                    call.lent = True
            if not call.reply(offer):
                raise Refusal(REQUESTER_GONE.problem("whoever asked waits no longer for the answer"))
            offer.taken()
            if not call.lent:
                call.message.body.discard()
            await ended(offer, brought.rest)
        headers = [*call.message.metadata.to_responder(), *brought.told]
        if call.lent:
            return relayed(call, headers, REQUEST, answered=lambda _: call.message.body.close())
    except BaseException:
        if call is not None and call.lent:
            call.message.body.close()
        raise
    finally:
        offer.leave()
    return Reply(200, headers=[*headers, (OMITTED, "true")] if wants_request else headers)


async def take(relay: Relay, request: Request[Any], asked: Key, doing: Doing) -> Reply | StreamReply:
    """Answer with the next request; what is sent to the same name next is its answer."""
    with given_up_when_client_leaves(request, 0):
        call = await _next(relay, asked, doing.options.wait_s)
    taken = partial(_taken, relay, asked, call)
    return relayed(call, call.message.metadata.to_consumer(), REQUEST, answered=taken)


async def switch(relay: Relay, request: Request[Any], asked: Key, doing: Doing) -> Reply | StreamReply:
    """Answer with the next request; its answer is what is sent to the channel that the body names."""
    patience_s = doing.options.wait_s
    name = parse_name(await _short(request))
    if not any(request.allows("stream.write", resource) for resource in (name, QUEUE + name)):
        request.require("stream.write", QUEUE + name)  # else it would take what others may send, and he may not
    binding = relay.switch.bind(Key(asked.db_id, name))
    try:
        with given_up_when_client_leaves(request, 0):
            call = await _next(relay, asked, patience_s)
    except BaseException:
        binding.release()
        raise
    return _switched(call, binding)


async def _next(relay: Relay, asked: Key, patience_s: float | None) -> Call:
    while True:
        call = await relay.calls.take(asked, patience_s)
        if call.waits:
            return call
        call.settle(False)  # its requester left before we could begin


def _taken(relay: Relay, asked: Key, call: Call, complete: bool) -> None:
    call.settle(complete)
    if complete:
        relay.slots.open(asked, call)


def _switched(call: Call, binding: Binding) -> Reply | StreamReply:
    binding.took(call)
    return relayed(call, call.message.metadata.to_responder(), REQUEST, answered=partial(binding.copied, call))


async def _short(request: Request[Any]) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > NAME_BYTES_MAX:
            raise Refusal(BODY_TOO_LARGE.problem("the body is only the name of the channel of the answer"))
    return body
