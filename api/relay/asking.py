"""A request to whoever answers it: it goes to one responder, and only that one's answer comes back."""

from typing import Any

from api.leaving import given_up_when_client_leaves
from api.relay.call import Call
from api.relay.channel import Key
from api.relay.delivery import fed, relayed
from api.relay.grammar import Doing
from api.relay.intake import bring
from api.relay.metrics import REQUEST
from api.relay.offer import Offer
from api.relay.relay import Relay
from api.routes import Reply, Request, StreamReply
from schemas.problems import RELAY_BROKEN, Problem, Refusal


async def ask(relay: Relay, request: Request[Any], key: Key, doing: Doing) -> Reply | StreamReply:
    """Send a request, and answer what its responder answers."""
    patience_s = doing.options.wait_s
    brought = await bring(relay, request, REQUEST, doing)
    call = Call(brought.message, relay.calls, key, relay.answer_s)
    relay.asked.add(call)
    timer = call.wait_at_most(patience_s) if patience_s is not None else None
    try:
        with brought.told_in_any_case(), given_up_when_client_leaves(request, 0):
            relay.calls.offer(key, call)
            feeding = None if brought.message.body.complete else call.feed(brought.rest)
            await fed(call.answer, feeding, needed=lambda: isinstance(call.answer.result(), Offer))
            return _answer(call.answer.result(), brought.told)
    except BaseException:
        call.leave()
        raise
    finally:
        relay.asked.discard(call)
        if timer is not None:
            timer.cancel()


def _answer(answer: Offer | Problem, told: list[tuple[str, str]]) -> Reply | StreamReply:
    if isinstance(answer, Problem):
        raise Refusal(answer)
    if answer.ended.done():
        raise Refusal(RELAY_BROKEN.problem("the responder left before its answer was complete"))
    about = answer.message.metadata
    return relayed(answer, [*about.to_requester(), *told], REQUEST, status=about.status)
