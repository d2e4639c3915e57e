"""Moments that chance seldom finds: who leaves between two steps of a relay."""

from api.relay.body import SPOOL_BYTES
from api.relay.relay import Relay
from tests.unit.relay_actors import Actor, settle

LARGE = bytes(SPOOL_BYTES + SPOOL_BYTES // 2)


def relay() -> Relay:
    return Relay(bytes_max=64 << 20, answer_s=3600)


async def test_a_requester_that_leaves_while_he_sends_is_not_answered() -> None:
    """P4.3, 3.7: the answer that was ready for him is dropped, and its sender hears so."""
    own = relay()
    requester = Actor(own, "POST", "req/x")
    requester.send(LARGE, last=False)
    await settle()
    responder = Actor(own, "POST", "res/x")
    responder.send(b"answer", last=True)
    await settle()
    assert (requester.status, responder.status) == (None, None)

    requester.leave()
    await settle()
    assert (responder.task.done(), responder.status) == (True, 410)
    assert own.budget.used_bytes == 0
    own.close()


async def test_a_receiver_that_leaves_at_the_moment_of_getting_loses_nothing() -> None:
    """S4: the message is for the next one."""
    own = relay()
    leaving = Actor(own, "GET", "x")
    leaving.send(b"", last=True)
    await settle()
    sender = Actor(own, "POST", "x")
    sender.send(b"message", last=True)
    leaving.leave()
    await settle()
    assert (leaving.status, sender.status) == (None, None)

    receiver = Actor(own, "GET", "x")
    receiver.send(b"", last=True)
    await settle()
    assert (receiver.body, sender.status) == (b"message", 200)
    assert own.budget.used_bytes == 0
    own.close()


async def test_a_responder_that_leaves_at_the_moment_of_getting_loses_no_request() -> None:
    """S4, S6: the request is for the next one, and the name is free."""
    own = relay()
    leaving = Actor(own, "POST", "res/x", "switch")
    leaving.send(b"name", last=True)
    await settle()
    requester = Actor(own, "POST", "req/x")
    requester.send(b"request", last=True)
    leaving.leave()
    await settle()
    assert (len(own.switch), requester.status) == (0, None)

    responder = Actor(own, "POST", "res/x")
    responder.send(b"answer", last=True)
    await settle()
    assert (requester.status, requester.body, responder.status) == (200, b"answer", 200)
    own.close()


async def test_a_sender_that_leaves_as_his_message_is_taken_spoils_no_receiver() -> None:
    """3.7: the receiver has the whole of it, or waits on."""
    own = relay()
    receiver = Actor(own, "GET", "x")
    receiver.send(b"", last=True)
    await settle()
    sender = Actor(own, "POST", "x")
    sender.send(LARGE, last=False)
    await settle(1)
    sender.leave()
    receiver.let_through(100)
    await settle()
    assert not receiver.ended
    assert own.budget.used_bytes == 0
    receiver.leave()
    await settle()
    assert len(own.offers) == 0
    own.close()
