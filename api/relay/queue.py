"""A message for one receiver: its sender is answered when that one has all of it."""

from typing import Any

from api.leaving import given_up_when_client_leaves
from api.relay.channel import Key
from api.relay.delivery import ended, relayed
from api.relay.grammar import Doing
from api.relay.intake import bring
from api.relay.metrics import BROADCAST, QUEUE
from api.relay.offer import Copy, Offer
from api.relay.relay import Relay
from api.routes import Reply, Request, StreamReply


async def consume(relay: Relay, request: Request[Any], key: Key, doing: Doing) -> Reply | StreamReply:
    """Answer with the next message of a channel, as soon as there is one."""
    patience_s = doing.options.wait_s
    with given_up_when_client_leaves(request, 0):
        taken = await relay.offers.take(key, patience_s)
        while isinstance(taken, Offer) and taken.ended.done():  # its sender broke off before we could begin
            taken = await relay.offers.take(key, patience_s)
    kind = BROADCAST if isinstance(taken, Copy) else QUEUE
    return relayed(taken, taken.message.metadata.to_consumer(), kind)


async def send(relay: Relay, request: Request[Any], key: Key, doing: Doing) -> Reply:
    """Offer a message, and answer when it was delivered; it may also be the answer to somebody's request."""
    patience_s = doing.options.wait_s
    brought = await bring(relay, request, QUEUE, doing)
    offer = Offer(brought.message, relay.offers, key)
    timer = offer.wait_at_most(patience_s) if patience_s is not None else None
    try:
        with brought.told_in_any_case(), given_up_when_client_leaves(request, 0):
            if not relay.switch.claims(offer, key):
                relay.offers.offer(key, offer)
            await ended(offer, brought.rest)
    finally:
        offer.leave()
        if timer is not None:
            timer.cancel()
    return Reply(200, headers=brought.told)
